/* What a Map's generated loops need: the functions, and a way around nested loops. */
#ifndef PD_MAP_H
#define PD_MAP_H

#include "functions.h"
#include "nest.h"

/* x to a constant power, where there is something better than pow */
PD_INLINE pd_vec pd_cube(pd_vec x) { return x * x * x; }
PD_INLINE pd_vec pd_root(pd_vec x) { /* unlike a square root, the root of -infinity is infinite */
    const pd_vec infinity = pd_splat(__builtin_inff());
    return pd_where(pd_eq(x, -infinity), infinity, pd_sqrt(x + 0.0f));
}

#endif
