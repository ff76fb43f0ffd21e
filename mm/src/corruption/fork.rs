//! A process that does something dangerous, and how it ended.

use core::fmt;
use std::io::{self, Read, Write};
use std::panic;
use std::string::{String, ToString};
use std::vec::Vec;

/// Processor time that one may take, in milliseconds: far more than it needs.
const MOST_MILLISECONDS: libc::suseconds_t = 900;

/// How a process ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// With nothing to say.
    Quiet,
    /// An invariant is broken, or something was refused with an error.
    Named(String),
    /// A panic that names no invariant.
    Panicked(String),
    /// By a signal.
    Killed(i32),
    /// With less than there was.
    Lost(String),
    /// Something has two owners.
    Double(String),
    /// Its time was up.
    Hung,
}

/// How a process that is at its end says so.
#[derive(Clone, Copy)]
enum Verdict {
    Named = 1,
    Panicked,
    Lost,
    Double,
}

/// Where the process that was forked says how it ends; nothing in the one that forks.
static REPORT: std::sync::Mutex<Option<io::PipeWriter>> = std::sync::Mutex::new(None);

fn end(verdict: Verdict, story: &dyn fmt::Display) -> ! {
    if let Ok(mut report) = REPORT.try_lock()
        && let Some(report) = &mut *report
    {
        let _ = report.write_all(story.to_string().as_bytes());
    }
    // SAFETY: ends the process, with nothing of it left to look at.
    unsafe { libc::_exit(verdict as i32) }
}

/// Ends the process: something has two owners.
pub(super) fn double(story: &dyn fmt::Display) -> ! {
    end(Verdict::Double, story)
}

/// Ends the process: something was refused, or the checker has found something.
pub(super) fn named(story: &dyn fmt::Display) -> ! {
    end(Verdict::Named, story)
}

/// Ends the process: there is less than there was.
pub(super) fn lost(story: &dyn fmt::Display) -> ! {
    end(Verdict::Lost, story)
}

/// Does some work in a process of its own, of which nothing but what it has written into shared memory is left afterwards.
pub(super) fn run(work: impl FnOnce()) -> End {
    let (mut reader, writer) = io::pipe().expect("there are pipes");
    // SAFETY: this process has one thread, so the other one can do all that this can.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no process can be forked");
    if child == 0 {
        drop(reader);
        *REPORT.lock().expect("nobody has it") = Some(writer);
        limit();
        panic::set_hook(std::boxed::Box::new(|info| {
            let message = info.payload_as_str().unwrap_or("");
            let names = message.contains("invariant ") && message.contains(" broken");
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            match names {
                true => end(Verdict::Named, &message),
                false => end(Verdict::Panicked, &format_args!("{message} ({place})")),
            }
        }));
        work();
        // SAFETY: as in `end`.
        unsafe { libc::_exit(0) }
    }
    drop(writer);
    let mut story = Vec::new();
    reader.read_to_end(&mut story).expect("a pipe can be read");
    let mut status = 0;
    // SAFETY: the status is this function's.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child, "the process is gone");
    let story = String::from_utf8_lossy(&story).to_string();
    if libc::WIFSIGNALED(status) {
        return match libc::WTERMSIG(status) {
            libc::SIGPROF | libc::SIGALRM => End::Hung,
            signal => End::Killed(signal),
        };
    }
    match libc::WEXITSTATUS(status) {
        0 => End::Quiet,
        code if code == Verdict::Named as i32 => End::Named(story),
        code if code == Verdict::Lost as i32 => End::Lost(story),
        code if code == Verdict::Double as i32 => End::Double(story),
        _ => End::Panicked(story),
    }
}

/// Has the process end when it takes too long: what it computes, and what it waits.
fn limit() {
    let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let time = libc::itimerval {
        it_interval: never,
        it_value: libc::timeval { tv_sec: 0, tv_usec: MOST_MILLISECONDS * 1000 },
    };
    // SAFETY: the value is read, and nothing is written.
    unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const time, core::ptr::null_mut()) };
    // SAFETY: sets a clock.
    unsafe { libc::alarm(60) };
}
