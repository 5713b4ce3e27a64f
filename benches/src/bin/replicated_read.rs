//! A read through a `Replicated` value's local copy beside one through an `Rc`, for an instruction count.
//!
//! Without an argument it makes the reads. With `--count` it runs itself under callgrind, prints what each took, and fails if the
//! first took more than 1.2 times the instructions of the second.

use std::error::Error;
use std::hint::black_box;
use std::process::Command;
use std::rc::Rc;

use ipiq::{DriverKind, FenceChoice, Local, Replicated, Runtime};

const READS: u64 = 1_000_000;
const LIMIT: f64 = 1.2;

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

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().nth(1).is_some_and(|argument| argument == "--count") { count() } else { read() }
}

fn read() -> Result<(), Box<dyn Error>> {
    // Callgrind knows neither io_uring nor membarrier.
    let builder = Runtime::builder().cores(1).driver(DriverKind::Epoll).fence(FenceChoice::Symmetric);
    let (rc, local) = builder.build()?.block_on(|| async {
        let settings = Settings::default();
        let local = Replicated::new(settings).local();
        (read_through_rc(&Rc::new(settings)), read_through_local(&local))
    });
    assert_eq!(rc, local);
    Ok(())
}

fn count() -> Result<(), Box<dyn Error>> {
    let file = std::env::temp_dir().join(format!("replicated_read.{}", std::process::id()));
    let ran = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .status();
    let annotated = Command::new("callgrind_annotate").arg("--inclusive=yes").arg(&file).output();
    // There is no file if valgrind is missing, which the next line says.
    let _ = std::fs::remove_file(&file);
    if !ran.map_err(|error| format!("valgrind: {error}; install it"))?.success() {
        return Err("the reads failed under callgrind".into());
    }
    let text = String::from_utf8(annotated?.stdout)?;
    let [local, rc] = ["read_through_local", "read_through_rc"].map(|name| instructions(&text, name));
    let (local, rc) = (local?, rc?);
    println!("instructions per read, loop included: {local:.2} through a `Local`, {rc:.2} through an `Rc`");
    if local > LIMIT * rc { Err(format!("more than {LIMIT} times as many").into()) } else { Ok(()) }
}

/// What the function `name` took per read, by the first line that names it.
fn instructions(annotated: &str, name: &str) -> Result<f64, Box<dyn Error>> {
    let line = annotated.lines().find(|line| line.contains(name)).ok_or("callgrind has not seen the reads")?;
    let number = line.split_whitespace().next().unwrap_or_default().replace(',', "");
    Ok(number.parse::<f64>()? / READS as f64)
}
