//! Networks of a test's own, which take root: nothing outside sees them, and nothing is left of them.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on fails, and says what it skips"
)]

use std::process::{Child, Command, Stdio};

/// Runs `test` on a thread that has a network of its own, which what it starts inherits. False: not permitted, nothing was run.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) -> bool {
    let thread = std::thread::spawn(|| {
        let permitted = unshare_network();
        if permitted {
            test();
        }
        permitted
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[allow(unsafe_code, reason = "unshare has no safe wrapper here")]
fn unshare_network() -> bool {
    // SAFETY: the call takes no pointer, and changes nothing but which network this thread sees.
    unsafe { libc::unshare(libc::CLONE_NEWNET) == 0 }
}

#[allow(unsafe_code, reason = "setns has no safe wrapper here")]
fn enter_network(network: &std::fs::File) {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the call takes no pointer, and changes nothing but which network this thread sees.
    assert_eq!(unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
}

/// Says loudly that a test could not run; where everything must run that is a failure.
pub(crate) fn said(tested: bool) {
    if !tested {
        eprintln!("!!! SKIPPED, so not tested: a network namespace takes root");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI=true: what is skipped counts as failed");
    }
}

pub(crate) fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status();
    assert!(status.expect("is installed").success(), "{command}");
}

/// Another network namespace, held by a process that ends with this value.
pub(crate) struct Namespace(Child);

impl Namespace {
    pub(crate) fn new() -> Self {
        let mut command = Command::new("unshare");
        // It says a line when it is there, and ends when its input does.
        command.args(["-n", "sh", "-c", "echo there; cat >/dev/null"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("is installed");
        let mut line = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).expect("it is there");
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// What `work` makes while it is in there; sockets stay in there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let network = std::fs::File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter_network(&network);
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub(crate) fn run(&self, command: &str) {
        run(&format!("nsenter -t {} -n {command}", self.pid()));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
