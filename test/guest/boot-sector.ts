/**
 * The test guest: 512 bytes that boot at once on any PC. It prints on the serial port, then sweeps a range of pages for
 * ever, adding one to the first byte of each. Wherever it is stopped, the bytes along the range are some number k up to
 * the sweep's place and k-1 behind it: **one falling edge**. A single page that was lost or is stale breaks that, on
 * whichever host and after however many migrations one looks (I10). `memory.ts` looks.
 *
 * It runs in real mode with one segment that reaches all of memory ("unreal mode"), so that the BIOS's timer interrupt
 * goes on working and can wake a guest that rests between two sweeps.
 */
export type GuestProgram = {
  /** The range that is swept, in bytes from the start of memory; whole pages. */
  readonly fromByte: number
  readonly toByte: number
  /** The very first sweep goes on up to here, so that so much memory is not empty. */
  readonly fillToByte?: number
  /** Waits for the timer after each sweep, which wakes it so often; absent: it makes memory dirty without rest. */
  readonly sweepsPerSecond?: number
}

export const SECTOR_BYTES = 512
export const PAGE_BYTES = 4096

/** Where the guest counts its sweeps: 32 bits, the low byte first. */
export const COUNTER_AT = 0x7e00

export const busyGuest: GuestProgram = { fromByte: 2 ** 20, toByte: 100 * 2 ** 20 }
/**
 * Makes memory dirty faster than anything copies it, and is soon over. A sweep takes it a quarter of a millisecond: it
 * leaves most of a processor to those who move it.
 */
export const smallGuest: GuestProgram = {
  fromByte: 2 ** 20,
  toByte: 9 * 2 ** 20,
  sweepsPerSecond: 250,
}
/** Works, and leaves the rest of the machine something to do it with. */
export const workingGuest: GuestProgram = { fromByte: 2 ** 20, toByte: 33 * 2 ** 20 }
export const quietGuest: GuestProgram = {
  fromByte: 2 ** 20,
  toByte: 5 * 2 ** 20,
  sweepsPerSecond: 18.2,
}

/** A gigabyte to move, of which little changes. */
export const fullGuest: GuestProgram = { ...quietGuest, fillToByte: 1000 * 2 ** 20 }

/** The timer counts down from a number of 16 bits, in which 0 stands for 65536, as the BIOS leaves it. */
const TIMER_HZ = 1_193_182
const SLOWEST = 2 ** 16

export function bootSector(program: GuestProgram): Buffer {
  const { fromByte, toByte, fillToByte = toByte, sweepsPerSecond } = program
  const divisor = Math.min(SLOWEST, Math.round(TIMER_HZ / (sweepsPerSecond ?? 1))) % SLOWEST
  const code = [
    // start, at 0000:7c00
    [0xfa], //                                cli
    [0x31, 0xc0], //                          xor ax, ax
    [0x8e, 0xd8], //                          mov ds, ax
    [0x8e, 0xd0], //                          mov ss, ax
    [0xbc, 0x00, 0x7c], //                    mov sp, 0x7c00
    [0xfc], //                                cld
    [0xe4, 0x92], //                          in al, 0x92
    [0x0c, 0x02], //                          or al, 2            the A20 gate: odd megabytes too
    [0xe6, 0x92], //                          out 0x92, al
    [0xb0, 0x34], //                          mov al, 0x34        the timer: both bytes, and again and again
    [0xe6, 0x43], //                          out 0x43, al
    [0xb0, divisor & 0xff], //                mov al, the low one
    [0xe6, 0x40], //                          out 0x40, al
    [0xb0, divisor >>> 8], //                 mov al, the high one
    [0xe6, 0x40], //                          out 0x40, al
    [0x66, 0xb9, ...dword(fillToByte)], //    mov ecx, fillToByte   how far the first sweep goes
    [0xbe, 0x94, 0x7c], //                    mov si, text
    [0xba, 0xf8, 0x03], //                    mov dx, 0x3f8       the first serial port

    // print, at 7c29
    [0xac], //                                lodsb
    [0x84, 0xc0], //                          test al, al
    [0x74, 0x03], //                          jz sweep
    [0xee], //                                out dx, al
    [0xeb, 0xf8], //                          jmp print

    // sweep, at 7c31: give fs all four gigabytes; an interrupt may have taken them away
    [0x0f, 0x01, 0x16, 0x7e, 0x7c], //        lgdt [gdtr]
    [0x0f, 0x20, 0xc0], //                    mov eax, cr0
    [0x0c, 0x01], //                          or al, 1            protected mode,
    [0x0f, 0x22, 0xc0], //                    mov cr0, eax
    [0xbb, 0x08, 0x00], //                    mov bx, 8
    [0x8e, 0xe3], //                          mov fs, bx          long enough to load fs,
    [0x24, 0xfe], //                          and al, 0xfe        and back
    [0x0f, 0x22, 0xc0], //                    mov cr0, eax
    [0x66, 0xbb, ...dword(fromByte)], //      mov ebx, fromByte

    // page, at 7c4e
    [0x64, 0x67, 0xfe, 0x03], //              inc byte [fs:ebx]
    [0x64, 0x67, 0xc6, 0x43, 0x01, 0x01], //  mov byte [fs:ebx+1], 1   never all zeros, which would cost nothing to send
    [0x66, 0x81, 0xc3, ...dword(PAGE_BYTES)], // add ebx, 4096
    [0x66, 0x39, 0xcb], //                    cmp ebx, ecx
    [0x72, 0xea], //                          jb page
    [0x66, 0xb9, ...dword(toByte)], //        mov ecx, toByte

    [0x66, 0xff, 0x06, 0x00, 0x7e], //        inc dword [COUNTER_AT]
    [0x80, 0x3e, 0x00, 0x7e, 0x00], //        cmp byte [COUNTER_AT], 0
    [0x75, 0x03], //                          jne rest
    [0xb0, 0x2e], //                          mov al, '.'         every 256th sweep
    [0xee], //                                out dx, al

    // rest, at 7c79: sti, hlt, cli; or nothing
    sweepsPerSecond === undefined ? [0x90, 0x90, 0x90] : [0xfb, 0xf4, 0xfa],
    [0xeb, 0xb3], //                          jmp sweep

    // gdtr, at 7c7e: the length less one, and the address of what follows
    [0x0f, 0x00, 0x84, 0x7c, 0x00, 0x00],
    // The first descriptor is empty; the second is data, from 0 to 4 GiB.
    [0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00],
    [0xff, 0xff, 0x00, 0x00, 0x00, 0x92, 0xcf, 0x00],

    // text, at 7c94
    [...Buffer.from('Ferry guest \0')],
  ].flat()
  const sector = Buffer.alloc(SECTOR_BYTES)
  sector.set(code)
  sector.set([0x55, 0xaa], SECTOR_BYTES - 2)
  return sector
}

function dword(value: number): number[] {
  return [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24]
}
