/* How far two processors are from each other: nanoseconds in which a cache line goes to the other
 * one and comes back. Some 60 where they share their last cache, several hundred where not. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

enum { TURNS = 200000 };
static _Alignas(128) atomic_int turn;

static void *answer(void *nothing) {
    for (int i = 0; i < TURNS; i++) {
        while (atomic_load_explicit(&turn, memory_order_acquire) != 1) {}
        atomic_store_explicit(&turn, 0, memory_order_release);
    }
    return nothing;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(void) {
    pthread_t other;
    if (pthread_create(&other, 0, answer, 0)) return 1;
    const double begin = now();
    for (int i = 0; i < TURNS; i++) {
        atomic_store_explicit(&turn, 1, memory_order_release);
        while (atomic_load_explicit(&turn, memory_order_acquire) != 0) {}
    }
    printf("%.0f\n", (now() - begin) / TURNS);
    return pthread_join(other, 0);
}
