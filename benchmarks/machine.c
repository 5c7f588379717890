/* What one machine can do at most: FMA from registers and from L1, bytes read and written by cache.
 *
 *     machine THREADS SECONDS BYTES...
 *
 * Every thread works on memory of its own, as large as BYTES says. Prints, one a line, "cycles"
 * in GHz, "fma", "fma_load" in GFLOP/s, then "read" and "write" in GB/s for each BYTES: all threads together, the
 * best of several repetitions of SECONDS (of processor time) each.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__AVX512F__)
enum { WIDTH = 64 };
#define REGISTER "+v"
#elif defined(__AVX__)
enum { WIDTH = 32 };
#define REGISTER "+x"
#else
enum { WIDTH = 16 };
#if defined(__aarch64__)
#define REGISTER "+w"
#else
#define REGISTER "+x"
#endif
#endif

typedef float vf __attribute__((vector_size(WIDTH)));
typedef uint64_t vi __attribute__((vector_size(WIDTH)));
enum { LANES = WIDTH / sizeof(float), CHAINS = 12, REPEATS = 5, INNER = 1024 };

typedef double work(void *memory, size_t bytes); /* returns operations, or bytes, of one call */

/* The compiler must take what is in the register for unknown, and for used. */
#define HIDE(x) __asm__ volatile("" : REGISTER(x))

/* Named variables, not an array: those the compiler keeps in registers. */
#define EACH_8(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define EACH(X) EACH_8(X) X(8) X(9) X(10) X(11)
#define FLOATS(n) vf sum##n = a;
#define BITS(n) vi sum##n = {0};
#define FMA(n) sum##n = sum##n * a + b;
#define FMA_LOAD(n) sum##n = sum##n * a + from[i + n];
#define READ(n) sum##n |= from[i + n];
#define WRITE(n) to[i + n] = value;
#define USED(n) HIDE(sum##n);

#define ADD(n) sum += one; __asm__ volatile("" : "+r"(sum));

/* Additions that wait for one another take a cycle each. */
static double cycles(void *memory, size_t bytes) {
    (void)memory, (void)bytes;
    size_t sum = 0, one = 1;
    __asm__ volatile("" : "+r"(one));
    for (int i = 0; i < INNER; i++) {
        EACH(ADD)
    }
    return (double)CHAINS * INNER;
}

static double fma_registers(void *memory, size_t bytes) {
    (void)memory, (void)bytes;
    vf a = {0}, b = {0};
    HIDE(a);
    HIDE(b);
    EACH(FLOATS)
    for (int i = 0; i < INNER; i++) {
        EACH(FMA)
        EACH(USED)
    }
    return 2.0 * LANES * CHAINS * INNER;
}

static double fma_load(void *memory, size_t bytes) {
    const vf *from = memory;
    size_t count = bytes / WIDTH / CHAINS * CHAINS;
    vf a = {0};
    HIDE(a);
    EACH(FLOATS)
    for (size_t i = 0; i < count; i += CHAINS) {
        EACH(FMA_LOAD)
        EACH(USED)
    }
    return 2.0 * LANES * count;
}

static double read_all(void *memory, size_t bytes) {
    const vi *from = memory;
    size_t count = bytes / WIDTH / 8 * 8;
    EACH_8(BITS)
    for (size_t i = 0; i < count; i += 8) {
        EACH_8(READ)
        EACH_8(USED)
    }
    return (double)count * WIDTH;
}

static double write_all(void *memory, size_t bytes) {
    vi *to = memory, value = {1};
    size_t count = bytes / WIDTH / 8 * 8;
    HIDE(value);
    for (size_t i = 0; i < count; i += 8) {
        EACH_8(WRITE)
        __asm__ volatile("" ::: "memory");
    }
    return (double)count * WIDTH;
}

typedef struct {
    work *run;
    size_t bytes;
    double seconds, rate;
    pthread_barrier_t *barrier;
} job;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* another's turn on the core is not ours */
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void *thread(void *argument) {
    job *j = argument;
    size_t bytes = (j->bytes + 4095) / 4096 * 4096;
    void *memory = aligned_alloc(4096, bytes);
    if (!memory) abort();
    memset(memory, 0, bytes);
    j->run(memory, j->bytes);
    pthread_barrier_wait(j->barrier);
    double start = now(), done = 0, took;
    size_t calls = 1 + (4 << 20) / bytes; /* reading the clock takes as long as a small one */
    do {
        for (size_t i = 0; i < calls; i++) {
            done += j->run(memory, j->bytes);
        }
        took = now() - start;
    } while (took < j->seconds);
    j->rate = done / took;
    free(memory);
    return NULL;
}

static double best(work *run, size_t bytes, int threads, double seconds) {
    double match = 0;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        pthread_barrier_t barrier;
        pthread_barrier_init(&barrier, NULL, threads);
        pthread_t ids[threads];
        job jobs[threads];
        double sum = 0;
        for (int t = 0; t < threads; t++) {
            jobs[t] = (job){run, bytes, seconds, 0, &barrier};
            if (pthread_create(&ids[t], NULL, thread, &jobs[t])) abort();
        }
        for (int t = 0; t < threads; t++) {
            pthread_join(ids[t], NULL);
            sum += jobs[t].rate;
        }
        pthread_barrier_destroy(&barrier);
        match = sum > match ? sum : match;
    }
    return match / 1e9;
}

int main(int count, char **arguments) {
    int threads = atoi(arguments[1]);
    double seconds = atof(arguments[2]);
    printf("cycles %.3f\n", best(cycles, 4096, threads, seconds));
    printf("fma %.1f\n", best(fma_registers, 4096, threads, seconds));
    printf("fma_load %.1f\n", best(fma_load, strtoull(arguments[3], NULL, 10), threads, seconds));
    for (int i = 3; i < count; i++) {
        size_t bytes = strtoull(arguments[i], NULL, 10);
        printf("read %.1f\n", best(read_all, bytes, threads, seconds));
        printf("write %.1f\n", best(write_all, bytes, threads, seconds));
    }
    return 0;
}
