//! Starts that fail on one core, whichever it is: an error that names it, all others joined, nothing left.

use std::thread;
use std::time::Duration;

use ipiq::{Builder, CoreId, DriverKind, Placement, Runtime};
use ipiq_suites::alone::alone;
use ipiq_suites::process::holdings;
use ipiq_suites::runtimes::{Census, drivers};
use ipiq_suites::sandbox::{Refusal, refuse, refusing};

const LIMIT: Duration = Duration::from_secs(120);
const CORES: usize = 4;
const DRIVER_CALLS: &[libc::c_long] = &[libc::SYS_epoll_create1, libc::SYS_io_uring_setup, libc::SYS_eventfd2];
const THREAD_CALLS: &[libc::c_long] = &[libc::SYS_clone, libc::SYS_clone3];

/// Fails to start `builder`, and returns what that says. Nothing is left of it, not even what it was given.
fn refused(builder: Builder) -> String {
    let before = holdings();
    let census = Census::default();
    let token = census.token();
    let named = move |core: CoreId| format!("core-{}-{:?}", core.index(), token).chars().take(6).collect();
    let error = builder.cores(CORES).thread_name(named).build().expect_err("a start that fails");
    assert_eq!(census.alive(), 0);
    while (holdings().threads, holdings().descriptors) != (before.threads, before.descriptors) {
        thread::yield_now();
    }
    error.to_string()
}

/// Has the thread that calls it, and those that it starts, be refused something.
fn refuse_calls(calls: &[libc::c_long], errno: i32) {
    refuse(&Refusal { calls, first_argument: None, errno });
}

#[test]
fn a_driver_that_is_refused_to_one_core_is_named_with_it() {
    alone("a_driver_that_is_refused_to_one_core_is_named_with_it", LIMIT, || {
        for driver in drivers() {
            for bad in (0..CORES).map(CoreId::new) {
                let hook = move |core| {
                    if core == bad {
                        refuse_calls(DRIVER_CALLS, libc::EMFILE);
                    }
                };
                let text = refused(Runtime::builder().driver(driver).on_thread_start(hook));
                assert!(text.starts_with(&format!("{bad}: ")), "{driver:?}: {text}");
            }
        }
    });
}

#[test]
fn a_hook_that_panics_on_one_core_is_named_with_it() {
    alone("a_hook_that_panics_on_one_core_is_named_with_it", LIMIT, || {
        for bad in (0..CORES).map(CoreId::new) {
            let text = refused(Runtime::builder().on_thread_start(move |core| assert_ne!(core, bad, "not here")));
            assert!(text.starts_with(&format!("{bad}: ")) && text.contains("not here"), "{text}");
        }
    });
}

/// Refuses something to the starting thread from the moment on in which the thread of core `bad` is about to be started.
fn from_core(bad: usize, calls: &'static [libc::c_long], errno: i32, builder: Builder) -> Builder {
    builder.cores(CORES).thread_name(move |core| {
        if core.index() == bad {
            refuse_calls(calls, errno);
        }
        format!("core-{}", core.index())
    })
}

fn no_thread_for(test: &str, bad: usize) {
    refusing(test, &[], || {
        let before = holdings();
        let built = from_core(bad, THREAD_CALLS, libc::EAGAIN, Runtime::builder().driver(DriverKind::Epoll)).build();
        let text = built.expect_err("no thread").to_string();
        assert!(text.starts_with(&format!("core {bad}: its thread could not be started")), "{text}");
        while (holdings().threads, holdings().descriptors) != (before.threads, before.descriptors) {
            thread::yield_now();
        }
    });
}

fn no_pinning_from(test: &str, bad: usize) {
    refusing(test, &[], || {
        let before = holdings();
        let cpus = ipiq_linux::cpus::allowed().cpus;
        let pinned = Runtime::builder().placement(Placement::Fixed(vec![cpus[0]; CORES]));
        let built = from_core(bad, &[libc::SYS_sched_setaffinity], libc::EPERM, pinned).build();
        let text = built.expect_err("no pinning").to_string();
        // The first one to say so: those that are started after it are refused it as well.
        assert!((bad..CORES).any(|core| text.starts_with(&format!("core {core}: "))) && text.contains("pin"), "{text}");
        while (holdings().threads, holdings().descriptors) != (before.threads, before.descriptors) {
            thread::yield_now();
        }
    });
}

/// A filter cannot be taken off again: a process, and so a test, for each core.
macro_rules! each_core {
    ($($core:literal: $thread:ident, $pin:ident;)*) => {$(
        #[test]
        fn $thread() {
            no_thread_for(stringify!($thread), $core);
        }

        #[test]
        fn $pin() {
            no_pinning_from(stringify!($pin), $core);
        }
    )*};
}

each_core! {
    0: a_thread_refused_for_core_0_is_named, pinning_refused_from_core_0_is_named;
    1: a_thread_refused_for_core_1_is_named, pinning_refused_from_core_1_is_named;
    2: a_thread_refused_for_core_2_is_named, pinning_refused_from_core_2_is_named;
    3: a_thread_refused_for_core_3_is_named, pinning_refused_from_core_3_is_named;
}
