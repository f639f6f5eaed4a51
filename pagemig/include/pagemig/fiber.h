/* Fibers: a stack of its own for a call that may stop half-way and be resumed while the caller's time passes in between.
 * One thread at a time uses a fiber; another thread may resume it later.
 *
 * The switch saves the registers that a call preserves: by hand on x86-64 and AArch64, since ucontext makes a system call
 * each time, and by ucontext elsewhere.
 */
#ifndef PAGEMIG_FIBER_H
#define PAGEMIG_FIBER_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#define PMG_FIBER_UCONTEXT
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

typedef struct pmg_fiber {
    void (*fn)(void *);
    void *arg;
    char *stack;                /* starts with a guard page */
    size_t size;
    int done;                   /* fn has returned */
    void *sp, *host_sp;
#ifdef PMG_FIBER_UCONTEXT
    ucontext_t own, host;
#endif
    const void *host_bottom;    /* for AddressSanitizer */
    size_t host_size;
    void *fake, *tsan, *host_tsan;
} pmg_fiber;

static __thread pmg_fiber *pmg_fiber_starting;

#if defined(__x86_64__)
/* Skip the red zone below the stack pointer: it is the caller's. */
static __attribute__((noinline, no_sanitize("address", "thread", "undefined")))
void pmg_fiber_switch(void **save, void *to)
{
    __asm__ volatile(
        "leaq -128(%%rsp), %%rsp\n\t"
        "pushq %%rbp\n\t"
        "pushq %%rbx\n\t"
        "leaq 1f(%%rip), %%rax\n\t"
        "pushq %%rax\n\t"
        "movq %%rsp, (%0)\n\t"
        "movq %1, %%rsp\n\t"
        "popq %%rax\n\t"
        "jmpq *%%rax\n"
        "1:\n\t"
        "endbr64\n\t"
        "popq %%rbx\n\t"
        "popq %%rbp\n\t"
        "leaq 128(%%rsp), %%rsp\n\t"
        : "+D"(save), "+S"(to)
        :
        : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm3",
          "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc",
          "memory");
}
#elif defined(__aarch64__)
static __attribute__((noinline, no_sanitize("address", "thread", "undefined")))
void pmg_fiber_switch(void **save, void *to)
{
    register void **from __asm__("x0") = save;
    register void *next __asm__("x1") = to;

    __asm__ volatile(
        "sub sp, sp, #32\n\t"
        "stp x29, x30, [sp, #16]\n\t"
        "str x19, [sp, #8]\n\t"
        "adr x16, 1f\n\t"
        "str x16, [sp]\n\t"
        "mov x9, sp\n\t"
        "str x9, [x0]\n\t"
        "mov sp, x1\n\t"
        "ldr x16, [sp]\n\t"
        "br x16\n"                 /* with BTI on, a branch through x16 may also enter a function */
        "1:\n\t"
        "hint #38\n\t"            /* bti jc */
        "ldr x19, [sp, #8]\n\t"
        "ldp x29, x30, [sp, #16]\n\t"
        "add sp, sp, #32\n\t"
        : "+r"(from), "+r"(next)
        :
        : "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x20",
          "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8",
          "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24",
          "v25", "v26", "v27", "v28", "v29", "v30", "v31", "cc", "memory");
}
#endif

static inline void pmg_fiber_to_host(pmg_fiber *f)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(f->done ? NULL : &f->fake, f->host_bottom, f->host_size);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(f->host_tsan, 0);
#endif
#ifdef PMG_FIBER_UCONTEXT
    swapcontext(&f->own, &f->host);
#else
    pmg_fiber_switch(&f->sp, f->host_sp);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(f->fake, &f->host_bottom, &f->host_size);
#endif
}

static __attribute__((noreturn, no_sanitize("address", "thread"))) void pmg_fiber_main(void)
{
    pmg_fiber *f = pmg_fiber_starting;

#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(NULL, &f->host_bottom, &f->host_size);
#endif
    f->fn(f->arg);
    f->done = 1;
    pmg_fiber_to_host(f);
    abort();
}

/* Make a stack: 0, or -1 when out of memory. */
static inline int pmg_fiber_new(pmg_fiber *f, size_t size)
{
    size_t page = (size_t) sysconf(_SC_PAGESIZE);
    void *stack;

    size = (size + 2 * page - 1) & ~(page - 1);
    stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED)
        return -1;
    if (mprotect(stack, page, PROT_NONE)) {
        munmap(stack, size);
        return -1;
    }
    f->stack = (char *) stack;
    f->size = size;
    f->done = 1;
    return 0;
}

static inline void pmg_fiber_free(pmg_fiber *f)
{
    if (f->stack)
        munmap(f->stack, f->size);
    f->stack = NULL;
}

/* Prepare an idle fiber to run fn, which starts with the next pmg_fiber_enter. */
static inline void pmg_fiber_begin(pmg_fiber *f, void (*fn)(void *), void *arg)
{
    f->fn = fn;
    f->arg = arg;
    f->done = 0;
    f->fake = NULL;
#ifdef PMG_FIBER_UCONTEXT
    getcontext(&f->own);
    f->own.uc_stack.ss_sp = f->stack;
    f->own.uc_stack.ss_size = f->size;
    f->own.uc_link = NULL;
    makecontext(&f->own, pmg_fiber_main, 0);
#else
    {
        /* As if pmg_fiber_main had been called: at its start the x86-64 stack pointer is 8 bytes off a multiple of 16. */
        void **sp = (void **) (f->stack + f->size) - 4;

        sp[0] = (void *) (uintptr_t) pmg_fiber_main;
        sp[1] = sp[2] = NULL;
        f->sp = sp;
    }
#endif
#if defined(__SANITIZE_THREAD__)
    f->tsan = __tsan_create_fiber(0);
#endif
}

/* Run the fiber until it pauses or is done. */
static inline __attribute__((no_sanitize("thread"))) void pmg_fiber_enter(pmg_fiber *f)
{
#if defined(__SANITIZE_ADDRESS__)
    void *fake;

    __sanitizer_start_switch_fiber(&fake, f->stack, f->size);
#endif
#if defined(__SANITIZE_THREAD__)
    f->host_tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(f->tsan, 0);
#endif
    pmg_fiber_starting = f;
#ifdef PMG_FIBER_UCONTEXT
    swapcontext(&f->host, &f->own);
#else
    pmg_fiber_switch(&f->host_sp, f->sp);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
#if defined(__SANITIZE_THREAD__)
    if (f->done)
        __tsan_destroy_fiber(f->tsan);
#endif
}

#endif
