/*
 * A guest of a few kilobytes for Xen: PVH, or HVM behind `xen-boot.S`. It counts, twice a second at most, and says with
 * each count whether its memory is still what it was; it suspends when it is asked to, and goes on wherever it wakes up.
 * It has no devices. Linux says the same and more (`xen-dom0.ts`), and is ten times as large to copy.
 *
 * Xen starts it at `start` in 32-bit mode without paging, so an address is what Xen calls it, too. What Xen, its store and
 * its console expect stands in xen/include/public (hvm/params.h, io/console.h, io/xs_wire.h, sched.h, arch-x86/xen.h).
 */
#include <stdint.h>

enum { PAGE_BYTES = 4096, SELF = 0x7ff0 };
enum { MEMORY_OP = 12, SCHED_OP = 29, EVENT_CHANNEL_OP = 32, HVM_OP = 34 };
enum { ADD_TO_PHYSMAP = 7, SHARED_INFO_SPACE = 0 };
enum { SHUTDOWN = 2, POLL = 3, REASON_SUSPEND = 2 };
enum { SEND = 4, SET_PARAM = 0, GET_PARAM = 1 };
enum { CALLBACK = 0, STORE_PAGE = 1, STORE_PORT = 2, CONSOLE_PAGE = 17, CONSOLE_PORT = 18 };
enum { READ = 2, WRITE = 11, HYPERCALL_LEAF = 0x40000002 };

static const uint64_t MS = 1000000;
/* How it is told of events: by an interrupt, which it never lets in. To libxl it is a guest that suspends itself, then. */
static const uint64_t BY_VECTOR = 2ull << 56 | 0xf3;
/* A count, a look at what others have to do, and how long they may take for what was said last. */
enum { COUNT_MS = 400, LOOK_MS = 5, PATIENCE_LOOKS = 4000 };

struct console {
  char in[1024], out[2048];
  volatile uint32_t in_taken, in_put, out_taken, out_put;
};

struct store {
  char asked[1024], answered[1024];
  volatile uint32_t asked_taken, asked_put, answered_taken, answered_put;
};

struct words {
  uint32_t kind, id, transaction, bytes;
};

struct time {
  volatile uint32_t version;
  uint32_t pad;
  uint64_t tsc, ns;
  uint32_t multiplier;
  int8_t shift;
};

static char hypercalls[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
static char shared[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
static uint32_t kept[64 * 1024 / 4];
static volatile uint32_t changed[64][PAGE_BYTES / 4];
char stack[PAGE_BYTES];

static struct console *console;
static struct store *store;
static uint32_t console_port, store_port;

__asm__(".pushsection .note.Xen, \"a\", @note\n"
        ".long 4, 4, 18\n"
        ".asciz \"Xen\"\n"
        ".long start\n"
        ".popsection\n"
        ".globl start\n"
        "start: cld\n"
        "movl $stack + 4096, %esp\n"
        "call main\n");

static int32_t call(uint32_t number, uint32_t what, void *with) {
  int32_t result;
  const char *entry = hypercalls + number * 32;
  __asm__ volatile("call *%[entry]"
                   : "=a"(result), "+b"(what), "+c"(with)
                   : [entry] "a"(entry)
                   : "memory", "cc");
  return result;
}

static uint64_t param(uint32_t what, uint32_t index, uint64_t value) {
  struct {
    uint16_t domain, pad;
    uint32_t index;
    uint64_t value;
  } of = {SELF, 0, index, value};
  call(HVM_OP, what, &of);
  return of.value;
}

static uint32_t get(uint32_t index) {
  return (uint32_t)param(GET_PARAM, index, 0);
}

/* Again after each suspension: on another host nothing of this is as it was. */
static void settle(void) {
  uint32_t leaf = HYPERCALL_LEAF, number, high, low;
  __asm__ volatile("cpuid" : "+a"(leaf), "=b"(number), "=c"(low), "=d"(high));
  __asm__ volatile("wrmsr" : : "c"(number), "a"((uint32_t)hypercalls), "d"(0) : "memory");
  struct {
    uint16_t domain, size;
    uint32_t space, index, page;
  } info = {SELF, 0, SHARED_INFO_SPACE, 0, (uint32_t)shared / PAGE_BYTES};
  call(MEMORY_OP, ADD_TO_PHYSMAP, &info);
  console = (struct console *)(get(CONSOLE_PAGE) * PAGE_BYTES);
  store = (struct store *)(get(STORE_PAGE) * PAGE_BYTES);
  console_port = get(CONSOLE_PORT);
  store_port = get(STORE_PORT);
  param(SET_PARAM, CALLBACK, BY_VECTOR);
}

static uint64_t now_ns(void) {
  const struct time *time = (const struct time *)(shared + 32);
  uint32_t version;
  uint64_t ns;
  do {
    version = time->version;
    __asm__ volatile("" ::: "memory");
    uint64_t passed = __builtin_ia32_rdtsc() - time->tsc;
    passed = time->shift < 0 ? passed >> -time->shift : passed << time->shift;
    ns = time->ns + ((uint32_t)passed * (uint64_t)time->multiplier >> 32) +
         (passed >> 32) * time->multiplier;
    __asm__ volatile("" ::: "memory");
  } while (version & 1 || version != time->version);
  return ns;
}

/* A PC's timer, which it never hears, wakes it early. */
static void rest(uint32_t ms) {
  struct {
    void *ports;
    uint32_t count;
    uint64_t until_ns;
  } poll = {0, 0, now_ns() + ms * MS};
  do call(SCHED_OP, POLL, &poll);
  while (now_ns() < poll.until_ns);
}

static void wake(uint32_t port) {
  call(EVENT_CHANNEL_OP, SEND, &port);
}

static void say(const char *text) {
  for (; *text; text++) {
    while (console->out_put - console->out_taken == sizeof console->out) rest(LOOK_MS);
    console->out[console->out_put % sizeof console->out] = *text;
    __asm__ volatile("" ::: "memory");
    console->out_put++;
  }
  wake(console_port);
}

static void say_number(uint32_t number) {
  char digits[11], *at = digits + sizeof digits - 1;
  *at = 0;
  do *--at = (char)('0' + number % 10);
  while (number /= 10);
  say(at);
}

static void put(const void *bytes, uint32_t length) {
  for (const char *from = bytes; length--; from++) {
    while (store->asked_put - store->asked_taken == sizeof store->asked) rest(LOOK_MS);
    store->asked[store->asked_put % sizeof store->asked] = *from;
    __asm__ volatile("" ::: "memory");
    store->asked_put++;
  }
}

static char next(void) {
  while (store->answered_put == store->answered_taken) rest(LOOK_MS);
  __asm__ volatile("" ::: "memory");
  char byte = store->answered[store->answered_taken % sizeof store->answered];
  store->answered_taken++;
  return byte;
}

/* Xen's store, asked for what the host wants of the guest; `answer` gets the first bytes of what it says. */
static void ask(uint32_t kind, char *answer, uint32_t room) {
  static const char path[] = "control/shutdown";
  struct words words = {kind, 0, 0, sizeof path};
  put(&words, sizeof words);
  put(path, sizeof path);
  wake(store_port);
  for (uint32_t at = 0; at < sizeof words; at++) ((char *)&words)[at] = next();
  for (uint32_t at = 0; at < words.bytes; at++) {
    char byte = next();
    if (at < room) answer[at] = byte;
  }
  wake(store_port);
}

static int is_to_suspend(void) {
  char wanted[7] = {0};
  static const char suspend[7] = {'s', 'u', 's', 'p', 'e', 'n', 'd'};
  ask(READ, wanted, sizeof wanted);
  for (uint32_t at = 0; at < sizeof wanted; at++)
    if (wanted[at] != suspend[at]) return 0;
  return 1;
}

/* Its own console begins anew on another host: what nobody has taken from it would be lost. */
static void suspend(void) {
  for (int looks = 0; console->out_taken != console->out_put && looks < PATIENCE_LOOKS; looks++)
    rest(LOOK_MS);
  ask(WRITE, 0, 0);
  uint32_t reason = REASON_SUSPEND;
  call(SCHED_OP, SHUTDOWN, &reason);
  settle();
}

static uint32_t after(uint32_t word) {
  return word * 1664525 + 1013904223;
}

static int is_right(void) {
  uint32_t word = 1;
  for (uint32_t at = 0; at < sizeof kept / sizeof *kept; at++)
    if (kept[at] != (word = after(word))) return 0;
  return 1;
}

void main(void) {
  settle();
  uint32_t word = 1;
  for (uint32_t at = 0; at < sizeof kept / sizeof *kept; at++) kept[at] = word = after(word);
  for (uint32_t count = 0;; count++) {
    for (uint32_t page = 0; page < sizeof changed / sizeof *changed; page++)
      changed[page][0] = count;
    say("count ");
    say_number(count);
    say(is_right() ? " memory right" : " memory wrong");
    say(" disk none\n");
    rest(COUNT_MS);
    if (is_to_suspend()) suspend();
  }
}
