/* How many threads a run gets: as many as measured to be fastest, by the times of the runs themselves.
 *
 * More threads are not always faster: another program may want the processors, those may be far from
 * each other, a thread that slept takes its time to wake. One thread depends on none of that. So a
 * session keeps an estimate of the time of a run with all of its threads, with half as many, and so
 * on down to one, runs with the number that has the least, and tries the others now and then. What
 * such trials cost is limited to PD_TRIALS of the time of all runs: where they are dear they are rare.
 * More threads are tried whenever there is budget, because conditions may have become better; fewer
 * threads only once runs take longer than they did, so that nothing is tried while all is well. */
#ifndef PD_ADAPTIVE_H
#define PD_ADAPTIVE_H

#define PD_CANDIDATES 11  /* 1024 threads, 512 and so on down to 1 */
#define PD_FIRST_RUNS 3   /* of every candidate before any is chosen; the first is not counted */
#define PD_TRIALS 0.03    /* share of the time of all runs that trials may cost */
#define PD_SAVED 8        /* runs' worth of time that may be saved up for trials */
#define PD_OVERDRAWN 100  /* and the same that may be owed */
#define PD_WEIGHT 0.35    /* of the newest run in an estimate */
#define PD_MARGIN 0.95    /* of the current estimate: a candidate has to be below this to be chosen */
#define PD_WORSE 1.15     /* times the best estimate that runs took before: fewer threads are tried */
#define PD_CONFIRMED 2    /* trials in a row that have to be faster, the second one at once */
#define PD_PAUSE 4        /* runs between trials at least, twice as many after every one that lost */
#define PD_LOSSES 7       /* doublings at most */
#define PD_OUTLIER 4.0    /* times the estimate: a run that took longer counts as this */

typedef struct {
    int threads, runs;
    double seconds; /* of a run, as estimated */
} pd_candidate;

typedef struct {
    pd_candidate candidate[PD_CANDIDATES];
    int count, current;
    int trial, won, lost; /* the candidate tried last; trials in a row that were faster, and slower */
    int pause;            /* runs until the next trial, at least */
    double budget;        /* seconds that may be spent on trials */
    double usual;         /* the least estimate of the current candidate, forgotten slowly */
} pd_adaptive;

/* `useful` is how many threads the work is enough for. */
static inline void pd_adaptive_start(pd_adaptive *a, int threads, int useful) {
    *a = (pd_adaptive){.count = 0};
#if defined(PD_ALL_THREADS) /* for tests of the threads themselves */
    useful = threads;
    a->candidate[a->count++].threads = useful;
#else
    for (int n = threads < useful ? threads : useful; n >= 1 && a->count < PD_CANDIDATES; n /= 2)
        a->candidate[a->count++].threads = n;
#endif
}

/* Whether there is budget for what a trial is expected to cost: something at least, and no more than
 * can be saved up. */
static inline int pd_affordable(const pd_adaptive *a, int index) {
    const double now = a->candidate[a->current].seconds;
    double extra = a->candidate[index].seconds - now;
    if (extra < 0.1 * now) extra = 0.1 * now;
    if (extra > PD_SAVED * now) extra = PD_SAVED * now;
    return extra <= a->budget;
}

/* Which candidate the next run should be: the least tried at first, mostly the current one, else one
 * to try. */
static inline int pd_adaptive_pick(pd_adaptive *a) {
    int minimum = 0;
    for (int i = 1; i < a->count; i++)
        if (a->candidate[i].runs < a->candidate[minimum].runs) minimum = i;
    if (a->count == 1 || a->candidate[minimum].runs < PD_FIRST_RUNS) return minimum;
    if (a->won > 0) return a->trial;
    if (a->pause > 0) return a->current;
    const pd_candidate *now = &a->candidate[a->current];
    if (a->current > 0 && pd_affordable(a, a->current - 1)) return a->current - 1;
    const int worse = now->seconds > PD_WORSE * a->usual && a->current + 1 < a->count;
    return worse && pd_affordable(a, a->current + 1) ? a->current + 1 : a->current;
}

/* The estimate of a candidate after a run, as long as it was not the first: that finds no memory and no
 * instructions in the caches, and says nothing. */
static inline void pd_adaptive_estimate(pd_candidate *c, double seconds) {
    if (c->runs++ == 0) return;
    if (c->runs > 2 && seconds > PD_OUTLIER * c->seconds) seconds = PD_OUTLIER * c->seconds;
    c->seconds = c->runs > 2 ? c->seconds + PD_WEIGHT * (seconds - c->seconds) : seconds;
}

/* What is saved for trials grows with every run, and pays for what a run took longer than it would
 * have with the best of the other candidates, `best`. */
static inline void pd_adaptive_pay(pd_adaptive *a, double seconds, double best) {
    const double now = a->candidate[a->current].seconds;
    a->budget += PD_TRIALS * (seconds < best ? seconds : best);
    if (seconds > best) a->budget -= seconds - best;
    if (a->budget > PD_SAVED * now) a->budget = PD_SAVED * now;
    if (a->budget < -PD_OVERDRAWN * now) a->budget = -PD_OVERDRAWN * now;
}

/* What follows from a run of another candidate than the current one. */
static inline void pd_adaptive_judge(pd_adaptive *a, int index, double seconds) {
    a->trial = index;
    if (seconds < PD_MARGIN * a->candidate[a->current].seconds) {
        if (++a->won < PD_CONFIRMED) return;
        a->candidate[index].seconds = seconds; /* whatever it was when things were different */
    } else {
        a->pause = PD_PAUSE << a->lost;
        a->lost += a->lost < PD_LOSSES;
    }
    a->won = 0;
}

/* A run of the candidate that was picked took `seconds`. */
static inline void pd_adaptive_learn(pd_adaptive *a, int index, double seconds) {
    if (a->count == 1) return;
    pd_adaptive_estimate(&a->candidate[index], seconds);
    double best = 0;
    int first = 0;
    for (int i = 0; i < a->count; i++) {
        const double estimate = a->candidate[i].seconds;
        if (a->candidate[i].runs < PD_FIRST_RUNS) return; /* not all are known */
        if (estimate < a->candidate[first].seconds) first = i;
        if (i != index && (best == 0 || estimate < best)) best = estimate;
    }
    pd_adaptive_pay(a, seconds, best);
    if (index != a->current) {
        pd_adaptive_judge(a, index, seconds);
        if (a->won > 0) return; /* once more, to be sure */
    } else if (a->pause > 0) a->pause--;
    for (int i = 0; i < a->count; i++)
        if (a->candidate[i].seconds < a->candidate[first].seconds) first = i;
    if (a->candidate[first].seconds < PD_MARGIN * a->candidate[a->current].seconds) {
        a->current = first;
        a->usual = 0;
        a->lost = 0;
    }
    const double now = a->candidate[a->current].seconds;
    a->usual = a->usual == 0 || now < a->usual ? now : 1.0005 * a->usual;
}

#endif
