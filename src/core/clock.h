/* Monotonic wall clock in milliseconds. */
#ifndef SQ_CLOCK_H
#define SQ_CLOCK_H

double clock_ms(void);

#endif
