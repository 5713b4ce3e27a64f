//! How the loop tells of its time, at the readings of the clock that it makes anyway.

use crate::counts::Counts;

/// What the core is known to do since its last reading of the clock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    Work,
    /// Nothing, when it looked at this time.
    Spin(u64),
    Park,
}

pub(super) struct Meter {
    doing: Doing,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self { doing: Doing::Work }
    }

    /// There was nothing to do at `now_ns`.
    pub(super) fn idles(&mut self, counts: &Counts, now_ns: u64) {
        if self.doing == Doing::Work {
            counts.spinning.begin(now_ns);
        }
        self.doing = Doing::Spin(now_ns);
    }

    /// There is something to do; the clock is not read.
    pub(super) fn works(&mut self, counts: &Counts) {
        if let Doing::Spin(last_ns) = self.doing {
            counts.spinning.end(last_ns);
        }
        self.doing = Doing::Work;
    }

    /// It sleeps from its last look on.
    pub(super) fn parks(&mut self, counts: &Counts) {
        if let Doing::Spin(last_ns) = self.doing {
            counts.spinning.end(last_ns);
            counts.parked.begin(last_ns);
            self.doing = Doing::Park;
        }
    }

    /// It has slept, or stayed awake, until `now_ns`.
    pub(super) fn wakes(&mut self, counts: &Counts, now_ns: u64) {
        match self.doing {
            Doing::Park => counts.parked.end(now_ns),
            Doing::Spin(_) => counts.spinning.end(now_ns),
            Doing::Work => {}
        }
        self.doing = Doing::Work;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn looks_in_vain_are_spun_up_to_the_last_and_sleeps_are_whole() {
        let (counts, mut meter) = (Counts::default(), Meter::new());
        counts.up.begin(0);
        meter.idles(&counts, 10);
        meter.idles(&counts, 30);
        meter.works(&counts);
        meter.works(&counts);
        meter.idles(&counts, 100);
        meter.parks(&counts);
        meter.wakes(&counts, 160);
        meter.idles(&counts, 200);
        meter.wakes(&counts, 205);
        let load = counts.read(|| 300);
        assert_eq!((load.spinning_ns, load.parked_ns, load.busy_ns), (25, 60, 215));
    }
}
