// Where a CPU begins: real mode, at the start of a page below 1 MiB, which is where CS points. What it needs to know stands
// in the same page, at {parameters} and behind. Leaves for the kernel in long mode, on page tables that map this page at
// its own address and the kernel where it is.

.section .rodata.trampoline, "a"
    .balign 16
.global trampoline_start
.global trampoline_protected
.global trampoline_long
.global trampoline_end
.code16
trampoline_start:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    xorl %ebx, %ebx
    movw %ax, %bx
    shll $4, %ebx                       // where the page is
    lgdtl {descriptors}
    movl %cr0, %eax
    orl $1, %eax                        // protected mode
    movl %eax, %cr0
    ljmpl *{protected}

.code32
trampoline_protected:
    movw ${data}, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movl {cr4}(%ebx), %eax
    movl %eax, %cr4
    movl {cr3}(%ebx), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              // EFER
    movl {efer}(%ebx), %eax
    xorl %edx, %edx
    wrmsr
    movl {cr0}(%ebx), %eax              // paging, and with it long mode
    movl %eax, %cr0
    ljmpl *{long}(%ebx)

.code64
trampoline_long:
    movl %ebx, %ebx                     // clears the upper half
    movq {stack}(%rbx), %rsp
    movq {root}(%rbx), %rdi
    movq {head}(%rbx), %rsi
    movq {entry}(%rbx), %rax
    jmpq *%rax
trampoline_end:
