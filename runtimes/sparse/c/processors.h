/* How many processors this process may use: those that it may be scheduled on, and no more than
 * what a control group (a container's CPU limit) grants it time for. */
#ifndef PD_PROCESSORS_H
#define PD_PROCESSORS_H

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PD_PATH 4096 /* bytes of the longest path that is looked at */

/* The first two numbers of a file; "max" counts as -1. Returns how many there are. */
static inline int pd_read_numbers(const char *path, long long *first, long long *second) {
    char text[64] = "";
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    const size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = 0;
    if (!strncmp(text, "max", 3)) {
        *first = -1;
        return 1 + (sscanf(text + 3, "%lld", second) == 1);
    }
    const int count = sscanf(text, "%lld %lld", first, second);
    return count > 0 ? count : 0;
}

/* Processors' worth of time that the group in `folder` has, or `most` where it has no limit. Version 2
 * of control groups has quota and period in one file, version 1 in two. */
static inline double pd_group_limit(const char *folder, double maximum) {
    char path[PD_PATH];
    long long quota = -1, period = 0, none;
    snprintf(path, sizeof path, "%.*s/cpu.max", PD_PATH - 32, folder);
    if (pd_read_numbers(path, &quota, &period) < 2) {
        snprintf(path, sizeof path, "%.*s/cpu.cfs_quota_us", PD_PATH - 32, folder);
        if (!pd_read_numbers(path, &quota, &none)) return maximum;
        snprintf(path, sizeof path, "%.*s/cpu.cfs_period_us", PD_PATH - 32, folder);
        if (!pd_read_numbers(path, &period, &none)) return maximum;
    }
    const double limit = quota > 0 && period > 0 ? (double)quota / (double)period : maximum;
    return limit < maximum ? limit : maximum;
}

/* The least of the limits of the groups from `group` up to `root`, and of `most`. */
static inline double pd_min_limit(const char *root, const char *group, double maximum) {
    char folder[PD_PATH];
    const size_t top = strlen(root);
    snprintf(folder, sizeof folder, "%s%s", root, group);
    for (;;) {
        maximum = pd_group_limit(folder, maximum);
        char *last = strrchr(folder, '/');
        if (!last || strlen(folder) <= top || (size_t)(last - folder) < top) return maximum;
        *last = 0;
    }
}

/* Whether a list of words between commas holds `word`. */
static inline int pd_is_listed(const char *list, const char *word) {
    for (const size_t size = strlen(word); list; list = strchr(list, ','), list += list != 0)
        if (!strncmp(list, word, size) && (list[size] == ',' || !list[size])) return 1;
    return 0;
}

/* The same for the groups that the lines of `own` (a copy of /proc/self/cgroup) name. In a container
 * that does not see its own place in the tree they are not there, and the root counts alone. */
static inline double pd_quota(const char *root, const char *own, double maximum) {
    char line[PD_PATH], folder[PD_PATH];
    FILE *file = fopen(own, "r");
    if (!file) return pd_min_limit(root, "", maximum);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : 0;
        if (!group) continue;
        *group++ = 0;
        if (!*++names) maximum = pd_min_limit(root, group, maximum); /* version 2 */
        else if (pd_is_listed(names, "cpu")) {
            snprintf(folder, sizeof folder, "%.1000s/%.1000s", root, names);
            maximum = pd_min_limit(folder, group, maximum);
        }
    }
    fclose(file);
    return maximum;
}

/* At least 1. A part of a processor does not count: a thread for it would be stopped in the middle of
 * its work whenever the quota is used up, with all the others waiting for it. */
static inline int pd_processors(void) {
    long count = sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
    count = (long)pd_quota("/sys/fs/cgroup", "/proc/self/cgroup", (double)count);
#endif
    return count > 0 ? (int)count : 1;
}

#endif
