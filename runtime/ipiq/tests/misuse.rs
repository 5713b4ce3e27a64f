//! What is called in the wrong place, or with a core that is not there, says so at the caller's line and tells what to do.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Mutex;
use std::time::Duration;

use ipiq::net::{TcpListener, TcpStream};
use ipiq::xcall::{Class, Ticket};
use ipiq::{CoreCache, CoreId, CoreSet, Handle, Pause, Replicated, Runtime, ipi, time, xcall};

/// The hook is the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The line and the text of the panic of `misuse`.
fn panic_of(misuse: impl FnOnce()) -> (String, u32, String) {
    static SEEN: Mutex<Option<(String, u32)>> = Mutex::new(None);
    let hook = take_hook();
    set_hook(Box::new(|info| {
        let at = info.location().expect("a panic has a location");
        *SEEN.lock().expect("not poisoned") = Some((at.file().to_owned(), at.line()));
    }));
    let panicked = catch_unwind(AssertUnwindSafe(misuse));
    set_hook(hook);
    let payload = panicked.expect_err("a misuse");
    let text =
        payload.downcast_ref::<String>().cloned().or_else(|| payload.downcast_ref::<&str>().map(|t| (*t).to_owned()));
    let (file, line) = SEEN.lock().expect("not poisoned").take().expect("the hook saw it");
    (file, line, text.expect("a text"))
}

type Misuse<'a> = Box<dyn FnOnce() + 'a>;

/// Checks that each misuse panics in this file, and not in one of the runtime's.
fn panic_here(says: &str, misuses: Vec<Misuse<'_>>) {
    for (number, misuse) in misuses.into_iter().enumerate() {
        let (file, line, text) = panic_of(misuse);
        assert!(file == file!(), "misuse {number} is reported at {file}:{line}: {text}");
        assert!(text.contains(says), "misuse {number}: {text}");
    }
}

#[test]
fn a_core_that_is_not_there_is_named_at_the_callers_line() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = Runtime::builder().cores(2).build().expect("a runtime of two cores");
    let absent = CoreId::new(2);
    let says = "there is no core 2: the runtime has 2 cores, numbered from 0; name one of them";
    let handle: Handle = runtime.handle();
    let present = CoreId::new(0);
    let (set, elsewhere) = (CoreSet::from_iter([absent]), Ticket::from_bits(2 << 55));
    assert_eq!(elsewhere.home(), absent);
    panic_here(
        says,
        vec![
            Box::new(|| drop(handle.spawn_on(absent, || async {}))),
            Box::new(|| drop(handle.call_on(absent, || ()))),
            Box::new(|| _ = handle.core_counters(absent)),
            Box::new(|| _ = handle.pair_counters(absent, present)),
            Box::new(|| _ = handle.pair_counters(present, absent)),
            Box::new(|| drop(handle.pause(absent, Pause::all(), |_| ()))),
            Box::new(|| drop(handle.pause(present, Pause::cores([absent]), |_| ()))),
            Box::new(|| drop(handle.multicast(&set, |_| ()))),
            Box::new(|| handle.doorbell().ring(absent)),
            Box::new(|| _ = handle.register_handler(|_| ()).expect("a place is free").trigger(absent)),
            Box::new(|| _ = handle.register_handler(|_| ()).expect("a place is free").trigger_set(&set)),
            Box::new(|| drop(handle.wait_ticket(elsewhere))),
        ],
    );
    runtime.block_on(move || async move {
        panic_here(
            says,
            vec![
                Box::new(|| drop(ipiq::spawn_on(absent, || async {}))),
                Box::new(|| drop(ipiq::call_on(absent, || ()))),
                Box::new(|| drop(ipiq::pause(Pause::cores([absent]), |_| ()))),
                Box::new(|| drop(ipiq::pause_each([absent], || ()))),
                Box::new(|| drop(xcall::high::unicast(absent, || ()))),
                Box::new(|| drop(xcall::low::unicast(absent, || async {}))),
                Box::new(|| drop(xcall::wait(elsewhere))),
                Box::new(|| drop(ipi::unicast(absent, |_| ()))),
                Box::new(|| drop(ipi::multicast(&set, |_| ()))),
                Box::new(|| drop(ipi::multicast_blocking(&set, |_| ()))),
            ],
        );
    });
    assert!(handle.cores().eq([0, 1].map(CoreId::new)) && handle.cores().len() == 2);
    assert_eq!(handle.cores().next_back(), Some(CoreId::new(1)));
}

#[test]
fn what_needs_a_core_says_so_at_the_callers_line() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let [here, absent] = [0, 1].map(CoreId::new);
    let misuses: Vec<(&str, Misuse<'_>)> = vec![
        ("spawn_on", Box::new(move || drop(ipiq::spawn_on(here, || async {})))),
        ("call_on", Box::new(move || drop(ipiq::call_on(here, || ())))),
        ("spawn_local", Box::new(|| drop(ipiq::spawn_local(async {})))),
        ("core_id", Box::new(|| _ = ipiq::core_id())),
        ("core_count", Box::new(|| _ = ipiq::core_count())),
        ("cores", Box::new(|| drop(ipiq::cores()))),
        ("handle", Box::new(|| drop(ipiq::handle()))),
        ("synchronize", Box::new(|| drop(ipiq::synchronize()))),
        ("pause", Box::new(|| drop(ipiq::pause(Pause::all(), |_| ())))),
        ("pause_each", Box::new(move || drop(ipiq::pause_each([here], || ())))),
        ("shootdown", Box::new(|| drop(ipiq::shootdown(|| ())))),
        ("time::sleep", Box::new(|| drop(time::sleep(Duration::ZERO)))),
        ("time::timeout", Box::new(|| drop(time::timeout(Duration::ZERO, async {})))),
        ("time::interval", Box::new(|| drop(time::interval(Duration::MAX)))),
        ("xcall::high::broadcast", Box::new(|| drop(xcall::high::broadcast(|| ())))),
        ("xcall::high::unicast", Box::new(move || drop(xcall::high::unicast(here, || ())))),
        ("xcall::low::broadcast", Box::new(|| drop(xcall::low::broadcast(|| async {})))),
        ("xcall::low::unicast", Box::new(move || drop(xcall::low::unicast(here, || async {})))),
        ("xcall::wait", Box::new(|| drop(xcall::wait(Ticket::from_bits(0))))),
        ("xcall::barrier", Box::new(|| drop(xcall::barrier(Class::High)))),
        ("xcall::counters", Box::new(|| _ = xcall::counters())),
        ("ipi::register", Box::new(|| drop(ipi::register(|_| ())))),
        ("ipi::broadcast", Box::new(|| drop(ipi::broadcast(|_| ())))),
        ("ipi::unicast", Box::new(move || drop(ipi::unicast(absent, |_| ())))),
        ("ipi::multicast", Box::new(|| drop(ipi::multicast(&CoreSet::empty(), |_| ())))),
        ("ipi::multicast_blocking", Box::new(|| drop(ipi::multicast_blocking(&CoreSet::empty(), |_| ())))),
        ("Doorbell::new", Box::new(|| drop(ipi::Doorbell::new()))),
        ("Replicated::new", Box::new(|| drop(Replicated::new(0)))),
        ("CoreCache::new", Box::new(|| drop(CoreCache::<u8, u8>::new(1)))),
        ("TcpStream::connect", Box::new(|| drop(TcpStream::connect("127.0.0.1:1")))),
        ("TcpListener::bind", Box::new(|| drop(TcpListener::bind("127.0.0.1:0")))),
        ("TcpListener::bind", Box::new(|| drop(TcpListener::builder().bind("127.0.0.1:0")))),
        (
            "TcpListener::bind_each_core",
            Box::new(|| drop(TcpListener::bind_each_core("127.0.0.1:0", |_| async { std::io::Result::Ok(()) }))),
        ),
    ];
    for (name, misuse) in misuses {
        panic_here(&format!("`{name}` was called on a thread that runs no core: call it inside a task"), vec![misuse]);
    }
}

#[test]
fn an_error_at_the_start_is_readable_where_main_prints_it() {
    let error = Runtime::builder().cores(0).build().expect_err("no cores");
    assert_eq!(format!("{error:?}"), error.to_string());
    assert!(error.to_string().contains("choose 1 to 256"), "{error}");
}

#[test]
fn a_doorbell_of_another_runtime_says_so_at_the_callers_line() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let [one, other] = [(); 2].map(|()| Runtime::builder().cores(1).build().expect("a runtime of one core"));
    let doorbell = other.handle().doorbell();
    one.block_on(move || async move {
        panic_here("another runtime's", vec![Box::new(|| drop(doorbell.notified()))]);
    });
}
