//! A read through a `Replicated` value's local copy and one through an `Rc`, for an instruction count by callgrind: see this package's README.

use std::hint::black_box;
use std::rc::Rc;

use ipiq::{DriverKind, FenceChoice, Local, Replicated, Runtime};

const READS: u64 = 1_000_000;

/// Eight words, of which one is read.
type Settings = [u64; 8];

#[inline(never)]
fn read_through_rc(settings: &Rc<Settings>) -> u64 {
    (0..READS).map(|_| black_box(settings)[5]).fold(0, u64::wrapping_add)
}

#[inline(never)]
fn read_through_local(settings: &Local<Settings>) -> u64 {
    (0..READS).map(|_| black_box(settings).read(|settings| settings[5])).fold(0, u64::wrapping_add)
}

fn main() -> Result<(), ipiq::BuildError> {
    // Callgrind knows neither io_uring nor membarrier.
    let builder = Runtime::builder().cores(1).driver(DriverKind::Epoll).fence(FenceChoice::Symmetric);
    let (rc, local) = builder.build()?.block_on(|| async {
        let settings = Settings::default();
        let local = Replicated::new(settings).local();
        (read_through_rc(&Rc::new(settings)), read_through_local(&local))
    });
    assert_eq!(rc, local);
    println!("{READS} reads each");
    Ok(())
}
