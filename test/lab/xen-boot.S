/*
 * The first sector of a disk: has the BIOS read what lies behind it, brings that to where it was linked for, and jumps
 * there, as Xen itself does for a PVH guest (xen-guest.c). SECTORS, AT, BYTES, ZEROS and ENTRY come from its maker.
 */
.set SELECT_CODE, 8
.set SELECT_DATA, 16
.set READ_AT, 0x10000

.code16
.globl boot
boot:
  cli
  cld
  xorw %ax, %ax
  movw %ax, %ds
  movw %ax, %ss
  movw $0x7c00, %sp
  movw $packet, %si
  movb $0x42, %ah
  int $0x13
  jc stopped
  inb $0x92, %al
  orb $2, %al
  outb %al, $0x92
  lgdt table
  movl %cr0, %eax
  orb $1, %al
  movl %eax, %cr0
  ljmpl $SELECT_CODE, $flat
stopped:
  hlt
  jmp stopped

.code32
flat:
  movw $SELECT_DATA, %ax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %ss
  movl $READ_AT, %esi
  movl $AT, %edi
  movl $BYTES, %ecx
  rep movsb
  xorl %eax, %eax
  movl $ZEROS, %ecx
  rep stosb
  movl $ENTRY, %eax
  jmp *%eax

/* For the BIOS's extended read: its own length, how much, where to, and from which sector on. */
packet:
  .byte 16, 0
  .word SECTORS
  .word 0, READ_AT / 16
  .quad 1

.balign 8
descriptors:
  .quad 0
  .quad 0x00cf9a000000ffff
  .quad 0x00cf92000000ffff
table:
  .word . - descriptors - 1
  .long descriptors

.org 510
  .byte 0x55, 0xaa
