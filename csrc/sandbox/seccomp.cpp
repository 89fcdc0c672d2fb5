// The system calls that a program has no use for, refused: other processes' memory, mounts, sockets, kernel keys, modules,
// memory outside its address-space limit, new namespaces. What is not named here is allowed: an interpreter needs most of it.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

#include "sandbox/sandbox.h"

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#endif

namespace pynanochat::sandbox {
namespace {

constexpr unsigned DENIED[] = {
    SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, 434 /* pidfd_open */, 438 /* pidfd_getfd */,
    424 /* pidfd_send_signal */, 440 /* process_madvise */, 448 /* process_mrelease */,
    // files and mounts
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_swapon, SYS_swapoff, SYS_quotactl, SYS_name_to_handle_at,
    SYS_open_by_handle_at, SYS_fanotify_init, 428 /* open_tree */, 429 /* move_mount */, 430 /* fsopen */, 431 /* fsconfig */,
    432 /* fsmount */, 433 /* fspick */, 442 /* mount_setattr */, 443 /* quotactl_fd */,
    // network, and whatever else the kernel can be asked to do on one's behalf
    SYS_socket, SYS_bind, SYS_listen, SYS_connect, SYS_accept, SYS_accept4, 425, 426, 427 /* io_uring */,
    SYS_unshare, SYS_setns, SYS_personality, SYS_acct, SYS_reboot, SYS_syslog, SYS_vhangup, SYS_sethostname,
    SYS_setdomainname, SYS_settimeofday, SYS_clock_settime, SYS_clock_adjtime, SYS_adjtimex, SYS_init_module,
    SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_add_key,
    SYS_request_key, SYS_keyctl, SYS_lookup_dcookie, SYS_move_pages, SYS_migrate_pages,
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef SYS_iopl
    SYS_iopl, SYS_ioperm, SYS_modify_ldt,
#endif
    // memory that RLIMIT_AS does not count
    SYS_memfd_create, 447 /* memfd_secret */, SYS_shmget, SYS_shmat, SYS_msgget, SYS_semget, SYS_mq_open,
};

constexpr unsigned NEW_NAMESPACES = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
                                    CLONE_NEWCGROUP | 0x80 /* CLONE_NEWTIME */;

class Filter {
 public:
  // Continues only for the machine's own system calls, with their number loaded.
  void begin() {
#ifdef NATIVE_ARCH
    load(offsetof(seccomp_data, arch));
    jump(BPF_JEQ, NATIVE_ARCH, 1, 0);
    refuse(EPERM);
#endif
    load_number();
#ifdef __x86_64__
    jump(BPF_JGE, 0x40000000, 0, 1);  // the x32 numbering
    refuse(ENOSYS);
#endif
  }
  void deny(unsigned number, int error = EPERM) {
    jump(BPF_JEQ, number, 0, 1);
    refuse(error);
  }
  // Denies the call where a word of its arguments, masked, is not `wanted` (or, the other way, is).
  void deny_argument(unsigned number, int argument, unsigned mask, unsigned wanted, bool equal_is_allowed) {
    jump(BPF_JEQ, number, 0, 5);
    load(static_cast<unsigned>(offsetof(seccomp_data, args)) + 8 * static_cast<unsigned>(argument));
    code_.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask));
    jump(BPF_JEQ, wanted, equal_is_allowed ? 1 : 0, equal_is_allowed ? 0 : 1);
    refuse(EPERM);
    load_number();
  }
  void install() {
    code_.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    sock_fprog program{static_cast<unsigned short>(code_.size()), code_.data()};
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0), "seccomp");
  }

 private:
  void load(size_t offset) { code_.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(offset))); }
  void load_number() { load(offsetof(seccomp_data, nr)); }
  void jump(unsigned short how, unsigned value, unsigned char yes, unsigned char no) {
    code_.push_back(BPF_JUMP(static_cast<unsigned short>(BPF_JMP | how | BPF_K), value, yes, no));
  }
  void refuse(int error) { code_.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error))); }
  std::vector<sock_filter> code_;
};

}  // namespace

bool has_seccomp() {
#ifdef NATIVE_ARCH
  // with a filter at no address: EFAULT where filters exist
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, nullptr, 0, 0) < 0 && errno == EFAULT;
#else
  return false;
#endif
}

void restrict_calls(const CallRules& rules) {
  Filter filter;
  filter.begin();
  for (unsigned number : DENIED) filter.deny(number);
  filter.deny(435, ENOSYS);  // clone3 hides its flags in memory; libc falls back to clone
  filter.deny_argument(SYS_clone, 0, NEW_NAMESPACES, 0, true);
  filter.deny_argument(SYS_prlimit64, 0, ~0u, 0, true);
  if (rules.no_forks) {
    filter.deny_argument(SYS_clone, 0, CLONE_THREAD, 0, false);
#ifdef SYS_fork
    filter.deny(SYS_fork);
    filter.deny(SYS_vfork);
#endif
  }
  if (rules.only_own_process) {
    unsigned own = static_cast<unsigned>(getpid());
    for (unsigned number : {SYS_kill, SYS_tgkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo}) {
      filter.deny_argument(number, 0, ~0u, own, true);
    }
    filter.deny(SYS_tkill);
  }
  filter.install();
}

}  // namespace pynanochat::sandbox
