/* Programs (jit.h) into huge pages: they are many megabytes, run through once a layer, and in the
 * small pages of a file a processor spends more time on finding them than on what they compute. */
#ifndef PD_PAGES_H
#define PD_PAGES_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { PD_SMALL_PAGE = 4096 };

#if defined(__linux__) && defined(MADV_HUGEPAGE) && defined(MREMAP_FIXED)
/* Whether the system gives huge pages to those who ask. */
static int pd_huge_pages(void) {
    char line[64] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    if (!file) return 0;
    const int read = fgets(line, sizeof line, file) != 0;
    fclose(file);
    return read && !strstr(line, "[never]");
}

/* `copy` to where the library's own pages are. A move that fails may have taken them away: then the
 * bytes are written there once more. */
static int pd_move(unsigned char *copy, void *to, size_t size) {
    if (mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) != MAP_FAILED) return 1;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    if (mmap(to, size, PROT_READ | PROT_WRITE, flags, -1, 0) != MAP_FAILED) {
        memcpy(to, copy, size);
        mprotect(to, size, PROT_READ | PROT_EXEC);
    }
    return 0;
}
#endif

/* Replace the pages of [from, from + size), which hold nothing else of this library, by a copy in huge
 * ones, which can be run and not be written. Nothing may use them meanwhile. Where they are few, or the
 * system would rather not, they stay as they are: only slower. */
static void pd_settle(const unsigned char *from, size_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE) && defined(MREMAP_FIXED)
    const size_t huge = (size_t)2 << 20;
    if (size < huge || (uintptr_t)from % PD_SMALL_PAGE || !pd_huge_pages()) return;
    size = (size + PD_SMALL_PAGE - 1) / PD_SMALL_PAGE * PD_SMALL_PAGE;
    unsigned char *all = mmap(0, size + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) return;
    /* as far from a huge page's boundary as there: pages then move as they are */
    unsigned char *copy = all + ((uintptr_t)from - (uintptr_t)all) % huge;
    if (madvise(all, size + huge, MADV_HUGEPAGE) == 0) {
        memcpy(copy, from, size);
        if (mprotect(copy, size, PROT_READ | PROT_EXEC) == 0
            && pd_move(copy, (void *)(uintptr_t)from, size)) {
            if (copy > all) munmap(all, (size_t)(copy - all));
            munmap(copy + size, (size_t)(all + huge - copy));
            return;
        }
    }
    munmap(all, size + huge);
#else
    (void)from, (void)size;
#endif
}

#endif
