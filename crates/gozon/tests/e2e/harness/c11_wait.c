/* Preloaded before libfaketime, which corrects the waits of POSIX threads until an instant of the wrong
 * clock, but not those of C11 threads: in glibc they do not pass through the functions that it
 * replaces, though they are the same. librdkafka waits so. */

#include <errno.h>
#include <pthread.h>
#include <threads.h>

int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until) {
    int ended = pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until);
    return ended == 0 ? thrd_success : ended == ETIMEDOUT ? thrd_timedout : thrd_error;
}
