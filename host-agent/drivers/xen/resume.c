/*
 * Lets a guest run on that was suspended to be sent away: what libxl does when a migration fails, and what xl before
 * 4.20 offers no command for (`xl unpause` of a suspended guest does nothing, and says that all is well).
 *
 *     xen-resume DOMID      exit status 0: it runs
 *
 * On Debian: apt-get install gcc libc6-dev libxen-dev
 *            cc -O2 -Wall -o /usr/local/lib/ferry/xen-resume resume.c -lxenlight -lxentoollog
 */
#include <libxl.h>
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **words)
{
    char *end = NULL;
    unsigned long domid = count == 2 ? strtoul(words[1], &end, 10) : 0;
    if (domid == 0 || *end != '\0') {
        fprintf(stderr, "usage: xen-resume DOMID\n");
        return 2;
    }
    xentoollog_logger_stdiostream *log =
        xtl_createlogger_stdiostream(stderr, XTL_ERROR, 0);
    libxl_ctx *xl = NULL;
    if (log == NULL || libxl_ctx_alloc(&xl, LIBXL_VERSION, 0, (xentoollog_logger *)log) != 0) {
        fprintf(stderr, "Xen does not answer\n");
        return 1;
    }
    /* 1: in place, as the guest's own kernel expects it when its suspending was given up. */
    int failed = libxl_domain_resume(xl, (uint32_t)domid, 1, NULL);
    libxl_ctx_free(xl);
    xtl_logger_destroy((xentoollog_logger *)log);
    return failed == 0 ? 0 : 1;
}
