/* Programs (unrolled.h) into huge pages: they are many megabytes, run through once a layer, and in the
 * small pages of a file a processor spends more time on finding them than on what they compute. */
#ifndef PD_PAGES_H
#define PD_PAGES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

enum { PD_SMALL_PAGE = 4096 };

/* Replace the whole pages [from, from + size) of this library by a copy in huge ones, which can be run
 * and not be written. Nothing may use them meanwhile. Where the system would rather not, they stay as
 * they are: it is no other program. */
static void pd_settle(const unsigned char *from, size_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE) && defined(MREMAP_FIXED)
    const size_t huge = (size_t)2 << 20;
    if (size < huge || (uintptr_t)from % PD_SMALL_PAGE) return;
    size = (size + PD_SMALL_PAGE - 1) / PD_SMALL_PAGE * PD_SMALL_PAGE;
    unsigned char *all = mmap(0, size + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) return;
    /* as far from a huge page's boundary as there: pages then move as they are */
    unsigned char *copy = all + ((uintptr_t)from - (uintptr_t)all) % huge;
    if (madvise(all, size + huge, MADV_HUGEPAGE) == 0) {
        memcpy(copy, from, size);
        if (mprotect(copy, size, PROT_READ | PROT_EXEC) == 0
            && mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(uintptr_t)from)
                != MAP_FAILED) {
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
