//! glommio, on one core: only what compares ways of giving way.

use std::thread;

use glommio::{LocalExecutorBuilder, Placement};

use crate::drive;
use crate::work::{Figure, Outcome, Peer, Plan};

/// One executor.
pub(super) static ONE: Glommio = Glommio;

/// glommio with its timer for preemption.
pub(super) struct Glommio;

impl Peer for Glommio {
    fn runtime(&self) -> &'static str {
        "glommio"
    }

    fn variant(&self) -> &'static str {
        "one"
    }

    fn note(&self) -> Option<&'static str> {
        Some("one executor; gives way by `yield_if_needed`, which a timer of its ring makes say yes")
    }

    fn preempt(&self, plan: Plan) -> Outcome {
        let executor = LocalExecutorBuilder::new(Placement::Fixed(plan.cpus[0])).preempt_timer(drive::SLICE);
        // It pins the thread that it runs on.
        let measured: thread::Result<Vec<Figure>> = thread::spawn(move || {
            executor.make().expect("an executor starts").run(async move {
                let spawn = |task: drive::Task| glommio::spawn_local(task).detach();
                let give_way = || async { glommio::executor().yield_if_needed().await };
                let question = drive::question(plan, drive::QUESTION, || glommio::executor().need_preempt());
                let mixed = drive::mixed_load(plan, &drive::OWN_WAY, give_way, |task| drop(spawn(task))).await;
                [vec![question], mixed].concat()
            })
        })
        .join();
        measured.expect("the measurement ends").into()
    }
}
