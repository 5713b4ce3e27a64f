use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::Wake;
use std::time::Instant;
use std::{thread, time};

use super::pool::QUEUE;
use super::*;

const LONG: time::Duration = time::Duration::from_secs(3600);

fn wait(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < time::Duration::from_secs(60), "it does not happen");
        thread::yield_now();
    }
}

struct Counts(AtomicUsize);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

#[test]
fn a_full_queue_gives_jobs_back_and_wakes_who_waits_when_half_of_it_is_free() {
    let pool = Pool::with_patience(1, LONG, || ());
    let (go, gone) = mpsc::channel::<()>();
    let ran = Arc::new(AtomicUsize::new(0));
    // Keeps the only worker busy until `go` is dropped.
    assert!(pool.push(Box::new(move || _ = gone.recv())).is_ok());
    let job = || -> Job {
        let ran = ran.clone();
        Box::new(move || _ = ran.fetch_add(1, Ordering::AcqRel))
    };
    let mut queued = 0;
    let refused = loop {
        match pool.push(job()) {
            Ok(()) => queued += 1,
            Err(Refused::Full(job)) => break job,
            Err(_) => panic!("it is full at most"),
        }
    };
    // The first one may have been taken already.
    assert!([QUEUE - 1, QUEUE].contains(&queued), "{queued}");
    let counts = Arc::new(Counts(AtomicUsize::new(0)));
    let (waker, place) = (counts.clone().into(), pool.clone().place());
    let Err(Refused::Full(refused)) = place.push_or_wait(refused, &waker) else { panic!("it is full") };
    assert_eq!(counts.0.load(Ordering::Acquire), 0);
    drop(go);
    wait(|| counts.0.load(Ordering::Acquire) == 1);
    // Half of them have left the queue: the one that kept it full among them, maybe, and one that has just been taken.
    assert!(ran.load(Ordering::Acquire) >= QUEUE / 2 - 2, "half of them have run");
    assert!(pool.push(refused).is_ok());
    wait(|| ran.load(Ordering::Acquire) == queued + 1);
    assert_eq!(pool.workers(), 1);
    pool.end();
    pool.join();
}

#[test]
fn workers_that_have_nothing_to_do_end_and_new_ones_come() {
    let pool = Pool::with_patience(3, time::Duration::from_millis(1), || ());
    for round in 1..=200 {
        let (tell, told) = mpsc::channel();
        for _ in 0..round % 5 {
            let tell = tell.clone();
            assert!(pool.push(Box::new(move || tell.send(()).expect("it is waited for"))).is_ok());
        }
        drop(tell);
        assert_eq!(told.iter().count(), round % 5);
        if round % 20 == 0 {
            wait(|| pool.workers() == 0);
        }
    }
    pool.end();
    pool.join();
}

#[test]
fn the_end_drops_what_is_queued_runs_out_what_has_begun_and_refuses_the_rest() {
    let pool = Pool::with_patience(1, LONG, || ());
    let (begun, has_begun) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let finished = Arc::new(AtomicUsize::new(0));
    let finish = finished.clone();
    let first = move || {
        begun.send(()).expect("it is waited for");
        let _ = gone.recv();
        finish.fetch_add(1, Ordering::AcqRel);
    };
    assert!(pool.push(Box::new(first)).is_ok());
    has_begun.recv().expect("it begins");
    let (token, dropped) = mpsc::channel::<()>();
    assert!(pool.push(Box::new(move || panic!("not run, with {token:?}"))).is_ok());
    let ends = pool.clone();
    let end = thread::spawn(move || {
        ends.end();
        ends.join();
    });
    // The queued one is gone before the first has ended.
    assert!(dropped.recv().is_err());
    assert!(matches!(pool.push(Box::new(|| ())), Err(Refused::Ended(_))));
    drop(go);
    end.join().expect("no panic");
    assert_eq!(finished.load(Ordering::Acquire), 1);
}

#[test]
fn a_job_that_ends_its_own_pool_does_not_wait_for_itself() {
    let pool = Pool::with_patience(2, LONG, || ());
    let (tell, told) = mpsc::channel();
    let own = pool.clone();
    assert!(
        pool.push(Box::new(move || {
            own.end();
            own.join();
            tell.send(()).expect("it is waited for");
        }))
        .is_ok()
    );
    told.recv().expect("it ends");
    wait(|| pool.workers() == 0);
}

#[test]
fn a_job_that_is_refused_is_dropped_where_its_destructor_may_bring_another() {
    struct BringsAnother(Arc<Pool>, mpsc::Sender<()>);
    impl Drop for BringsAnother {
        fn drop(&mut self) {
            assert!(self.0.push(Box::new(|| ())).is_err(), "the pool has ended");
            self.1.send(()).expect("it is waited for");
        }
    }
    let pool = Pool::with_patience(1, LONG, || ());
    pool.end();
    let (tell, told) = mpsc::channel();
    let brings = BringsAnother(pool.clone(), tell);
    let pushes = thread::spawn(move || drop(pool.push(Box::new(move || drop(brings)))));
    told.recv_timeout(time::Duration::from_secs(60)).expect("nobody waits for itself");
    pushes.join().expect("no panic");
}
