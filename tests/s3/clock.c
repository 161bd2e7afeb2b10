/* Another clock for one process: the time of day, CLOCK_SHIFT seconds off. LD_PRELOAD of tests/s3/run. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(clock, now);
    const char *shift = getenv("CLOCK_SHIFT");
    if (done == 0 && shift && clock == CLOCK_REALTIME)
        now->tv_sec += atol(shift);
    return done;
}

time_t time(time_t *also) {
    struct timespec now = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    if (also)
        *also = now.tv_sec;
    return now.tv_sec;
}
