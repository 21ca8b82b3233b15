"""The 206 pictograms the model knows: what it calls them, and their Unicode code points.

The order is part of the trained weights (class numbers) and of every random stream: never sort it.
"""

_TABLE = """
    dog 1f436 | cat 1f431 | mouse 1f42d | rabbit 1f430 | fox 1f98a | bear 1f43b | panda 1f43c |
    koala 1f428 | tiger 1f42f | lion 1f981 | cow 1f42e | pig 1f437 | frog 1f438 | monkey 1f435 |
    chicken 1f414 | penguin 1f427 | bird 1f426 | duck 1f986 | eagle 1f985 | owl 1f989 | bat 1f987 |
    wolf 1f43a | horse 1f434 | unicorn 1f984 | bee 1f41d | butterfly 1f98b | snail 1f40c |
    ladybug 1f41e | ant 1f41c | spider 1f577 | turtle 1f422 | snake 1f40d | lizard 1f98e |
    octopus 1f419 | squid 1f991 | shrimp 1f990 | crab 1f980 | fish 1f41f | dolphin 1f42c |
    whale 1f433 | shark 1f988 | crocodile 1f40a | zebra 1f993 | gorilla 1f98d | elephant 1f418 |
    camel 1f42a | giraffe 1f992 | kangaroo 1f998 | sheep 1f411 | goat 1f410 | deer 1f98c |
    turkey 1f983 | peacock 1f99a | parrot 1f99c | swan 1f9a2 | flamingo 1f9a9 | hedgehog 1f994 |
    otter 1f9a6 | sloth 1f9a5 | squirrel 1f43f | apple 1f34e | pear 1f350 | orange 1f34a |
    lemon 1f34b | banana 1f34c | watermelon 1f349 | grapes 1f347 | strawberry 1f353 |
    cherries 1f352 | peach 1f351 | mango 1f96d | pineapple 1f34d | coconut 1f965 | kiwi 1f95d |
    tomato 1f345 | eggplant 1f346 | avocado 1f951 | broccoli 1f966 | cucumber 1f952 | corn 1f33d |
    carrot 1f955 | potato 1f954 | croissant 1f950 | bread 1f35e | pretzel 1f968 | cheese 1f9c0 |
    egg 1f95a | pancakes 1f95e | bacon 1f953 | hamburger 1f354 | fries 1f35f | pizza 1f355 |
    hot dog 1f32d | sandwich 1f96a | taco 1f32e | popcorn 1f37f | ice cream 1f368 | donut 1f369 |
    cookie 1f36a | cake 1f382 | cupcake 1f9c1 | pie 1f967 | chocolate 1f36b | candy 1f36c |
    lollipop 1f36d | honey 1f36f | milk 1f95b | coffee 2615 | beer 1f37a | wine 1f377 | car 1f697 |
    taxi 1f695 | bus 1f68c | ambulance 1f691 | fire truck 1f692 | truck 1f69a | tractor 1f69c |
    bicycle 1f6b2 | motorcycle 1f3cd | train 1f686 | airplane 2708 | helicopter 1f681 |
    rocket 1f680 | sailboat 26f5 | ship 1f6a2 | anchor 2693 | soccer ball 26bd | basketball 1f3c0 |
    football 1f3c8 | baseball 26be | tennis ball 1f3be | guitar 1f3b8 | piano 1f3b9 |
    trumpet 1f3ba | violin 1f3bb | drum 1f941 | camera 1f4f7 | phone 1f4f1 | laptop 1f4bb |
    clock 23f0 | watch 231a | television 1f4fa | radio 1f4fb | light bulb 1f4a1 | candle 1f56f |
    book 1f4d5 | pencil 270f | scissors 2702 | key 1f511 | lock 1f512 | hammer 1f528 |
    wrench 1f527 | umbrella 2614 | crown 1f451 | hat 1f3a9 | glasses 1f453 | shirt 1f455 |
    jeans 1f456 | dress 1f457 | shoe 1f45f | boot 1f462 | sock 1f9e6 | handbag 1f45c |
    backpack 1f392 | ring 1f48d | gift 1f381 | balloon 1f388 | trophy 1f3c6 | medal 1f3c5 |
    bell 1f514 | magnet 1f9f2 | microscope 1f52c | telescope 1f52d | chair 1fa91 | couch 1f6cb |
    bed 1f6cf | door 1f6aa | toilet 1f6bd | house 1f3e0 | castle 1f3f0 | tent 26fa | tree 1f333 |
    palm tree 1f334 | cactus 1f335 | rose 1f339 | sunflower 1f33b | tulip 1f337 | mushroom 1f344 |
    leaf 1f341 | sun 2600 | moon 1f319 | cloud 2601 | rainbow 1f308 | snowman 26c4 | fire 1f525 |
    volcano 1f30b | globe 1f30d | ghost 1f47b | robot 1f916 | alien 1f47d | skull 1f480 |
    pumpkin 1f383 | teddy bear 1f9f8 | kite 1fa81 | dice 1f3b2 | envelope 2709
"""


def _parse(table: str) -> list[tuple[str, str]]:
    """(name, hexadecimal code point) of each entry; names may hold spaces."""
    entries = " ".join(table.split()).split(" | ")
    return [tuple(entry.rsplit(" ", 1)) for entry in entries]


PICTOGRAMS = _parse(_TABLE)
