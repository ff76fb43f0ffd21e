// PVH entry: 32-bit protected mode, paging off, ebx -> hvm_start_info.
// Leaves for long mode with the first 4 GiB identity-mapped in 2 MiB pages.

.section .note.pvh, "a", @note
    .balign 4
    .long 4                             // length of the name
    .long 8                             // length of the address
    .long 18                            // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start

.section .text.pvh_start, "ax"
.code32
.global pvh_start
pvh_start:
    cli
    cld
    movl $stack_top, %esp
    movl %ebx, %ebp                     // cpuid writes ebx

    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    testl $(1 << 29), %edx              // long mode
    jz no_long_mode
    testl $(1 << 20), %edx              // no-execute pages
    jz no_long_mode

    movl $(1 << 5), %eax                // PAE
    movl %eax, %cr4
    movl $identity_level_4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              // EFER: long mode, no-execute
    rdmsr
    orl $(1 << 8 | 1 << 11), %eax
    wrmsr
    movl %cr0, %eax
    orl $(1 << 31 | 1 << 16 | 1 << 0), %eax // paging, write protection, protected mode
    movl %eax, %cr0
    lgdtl boot_gdt_pointer
    ljmpl $8, $long_mode

no_long_mode:
    movl $no_long_mode_message, %esi
    movw $0x3f8, %dx
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:  movl $0x11, %eax
    movw $0xf4, %dx
    outl %eax, %dx
3:  hlt
    jmp 3b

.code64
long_mode:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movq $stack_top, %rsp
    movl %ebp, %edi                     // also clears the upper half
    xorl %ebp, %ebp
    call start
    ud2

// Copied to a page of its own and run there (see `switch`):
// rdi = boot info, rsi = level-4 table, rdx = stack top, rcx = the kernel's entry point.
.global switch_start
.global switch_end
switch_start:
    movq %rsi, %cr3
    movq %rdx, %rsp
    xorl %ebp, %ebp
    pushq $0                            // as after a call: the kernel's entry point has nowhere to return to
    jmpq *%rcx
switch_end:

// Every exception of the loader's own ends here; the stack pointer may be off by the error code.
.global exception_entry
exception_entry:
    andq $-16, %rsp
    call exception
    ud2

.section .rodata.boot_gdt, "a"
    .balign 8
.global boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            // 64-bit code, accessed
    .quad 0x00cf93000000ffff            // data, accessed
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt
no_long_mode_message:
    .asciz "boot: error: the CPU has no 64-bit mode or no no-execute pages\r\n"

// Present and writable (3); in the lowest tables also 2 MiB large (0x80).
.section .data.identity, "aw"
    .balign 4096
identity_level_4:
    .quad identity_level_3 + 3
    .fill 511, 8, 0
identity_level_3:
    .quad identity_level_2 + 3
    .quad identity_level_2 + 0x1000 + 3
    .quad identity_level_2 + 0x2000 + 3
    .quad identity_level_2 + 0x3000 + 3
    .fill 508, 8, 0
identity_level_2:
    .set index, 0
    .rept 2048
    .quad index * 0x200000 + 0x83
    .set index, index + 1
    .endr

.section .bss.stack, "aw", @nobits
    .balign 16
    .skip 256 * 1024
stack_top:
