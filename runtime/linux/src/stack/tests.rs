use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::panic::catch_unwind;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::*;

const SIGNAL: c_int = libc::SIGUSR2;
const COPY: usize = 16 << 10;
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A thread that is looked at.
struct Watched {
    cell: TraceCell,
    limits: Limits,
    /// What the handler did.
    filled: AtomicU64,
    refused: AtomicU64,
    /// Whether it ran on the thread's own stack.
    on_own_stack: AtomicBool,
    /// The least that a capture has taken.
    least_ns: AtomicU64,
}

thread_local! {
    /// No destructor, no lazy initialisation: a load, for the handler.
    static WATCHED: Cell<*const Watched> = const { Cell::new(ptr::null()) };
}

extern "C" fn on_signal(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: 1. the thread keeps what it has put there until it takes it away.
    let Some(watched) = (unsafe { WATCHED.get().as_ref() }) else { return };
    watched.on_own_stack.store(watched.limits.contain(stack_pointer()), Ordering::Relaxed);
    let start = Instant::now();
    // SAFETY: 1. the kernel's own argument. 2. the thread read them itself.
    let filled = unsafe { watched.cell.fill(context, &watched.limits) };
    if filled {
        watched.least_ns.fetch_min(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }
    let count = if filled { &watched.filled } else { &watched.refused };
    count.fetch_add(1, Ordering::Relaxed);
}

/// A sanitizer puts locals elsewhere.
#[inline(always)]
fn stack_pointer() -> usize {
    let sp;
    // SAFETY: 1. it reads a register.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags));
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("mov {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags));
    }
    sp
}

/// The handler runs on the alternate stack of threads that have one.
fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        // SAFETY: 1. all zeroes is an action.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        // SAFETY: 1. the handler is async-signal-safe. 2. the old action is not asked for.
        assert_eq!(unsafe { libc::sigaction(SIGNAL, &raw const action, ptr::null_mut()) }, 0);
    });
}

/// A thread that runs `body` over and over until the scene ends, ready to be looked at.
struct Scene {
    watched: Arc<Watched>,
    stop: Arc<AtomicBool>,
    turns: Arc<AtomicU64>,
    thread: JoinHandle<()>,
    id: libc::pthread_t,
}

impl Scene {
    fn new(body: impl Fn(&AtomicBool) + Send + 'static) -> Self {
        Self::with(thread::Builder::new(), COPY, body)
    }

    fn with(thread: thread::Builder, copy: usize, body: impl Fn(&AtomicBool) + Send + 'static) -> Self {
        install();
        let (say, ready) = mpsc::channel();
        let (stop, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = thread.spawn({
            let (stop, turns) = (stop.clone(), turns.clone());
            move || {
                let limits = Limits::current().expect("the stack's limits");
                let counts = || AtomicU64::new(0);
                let cell = TraceCell::new(copy);
                let watched = Arc::new(Watched {
                    cell,
                    limits,
                    filled: counts(),
                    refused: counts(),
                    on_own_stack: AtomicBool::new(false),
                    least_ns: AtomicU64::new(u64::MAX),
                });
                WATCHED.set(Arc::as_ptr(&watched));
                // SAFETY: 1. no pointers.
                say.send((watched.clone(), unsafe { libc::pthread_self() })).expect("somebody waits");
                while !stop.load(Ordering::Relaxed) {
                    body(&stop);
                    turns.fetch_add(1, Ordering::Relaxed);
                }
                WATCHED.set(ptr::null());
            }
        });
        let thread = thread.expect("a thread");
        let (watched, id) = ready.recv().expect("it starts");
        Self { watched, stop, turns, thread, id }
    }

    fn signal(&self) {
        // SAFETY: 1. the thread has not been joined.
        assert_eq!(unsafe { libc::pthread_kill(self.id, SIGNAL) }, 0);
    }

    fn trace(&self) -> Trace {
        self.signal();
        let start = Instant::now();
        loop {
            if let Some(trace) = self.watched.cell.take() {
                return trace;
            }
            assert!(start.elapsed() < PATIENCE, "the handler has not run");
            thread::yield_now();
        }
    }

    /// Traces until one passes: the thread may be anywhere in its loop.
    fn trace_that(&self, passes: impl Fn(&[Frame]) -> bool) -> Vec<Frame> {
        let start = Instant::now();
        loop {
            let frames = self.trace().symbolise();
            if passes(&frames) {
                return frames;
            }
            assert!(start.elapsed() < PATIENCE, "none passes, the last one is\n{}", Listing(&frames));
        }
    }

    fn print_cost(&self, trace: &Trace) {
        let least = self.watched.least_ns.load(Ordering::Relaxed);
        println!("least capture: {least} ns, {} records, a copy of {} bytes", trace.chain.len(), trace.copied());
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
    }
}

/// Whether it is that function; builds with line tables alone have no more than the last part of its path.
fn is_named(frame: &Frame, name: &str) -> bool {
    frame.function.as_ref().is_some_and(|function| function.rsplit("::").next() == Some(name))
}

/// Whether the functions are there in this order, innermost first, others between them or not.
fn in_order(frames: &[Frame], names: &[&str]) -> bool {
    let mut frames = frames.iter();
    names.iter().all(|name| frames.any(|frame| is_named(frame, name)))
}

#[inline(never)]
fn innermost(stop: &AtomicBool) -> u64 {
    let mut turns = 0;
    while !black_box(stop).load(Ordering::Relaxed) {
        turns += 1;
    }
    turns
}

#[inline(never)]
fn middle(stop: &AtomicBool) -> u64 {
    black_box(innermost(stop)) + 1
}

#[inline(never)]
fn outermost(stop: &AtomicBool) {
    black_box(middle(stop) + 1);
}

const CHAIN: [&str; 4] = ["innermost", "middle", "outermost", "thread_start"];

#[test]
fn a_thread_in_a_long_function_is_found_there_with_its_callers() {
    let scene = Scene::new(outermost);
    let is_located = |frame: &Frame| {
        // Instructions that the compiler has added have no line.
        frame.line.is_some_and(|line| line < line!())
            && frame.file.as_ref().is_some_and(|file| file.ends_with("stack/tests.rs"))
    };
    let found = |frames: &[Frame]| frames.iter().any(|frame| is_named(frame, CHAIN[0]) && is_located(frame));
    let frames = scene.trace_that(|frames| in_order(frames, &CHAIN) && found(frames));
    let listing = Listing(&frames).to_string();
    assert!(listing.starts_with("   0: ") && listing.contains("\n             at "), "{listing}");
    println!("{listing}");
    assert!(frames.iter().all(|frame| !frame.cut && !frame.after_gap), "it is complete\n{listing}");
    scene.end();
}

fn assert_marked(frames: &[Frame]) {
    let cut = frames.iter().position(|frame| frame.cut);
    let listing = Listing(frames).to_string();
    assert_eq!(cut, frames.len().checked_sub(1), "the last one, and no other\n{listing}");
    assert!(listing.ends_with("(the rest could not be unwound)\n"), "{listing}");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_list_that_ends_early_says_so() {
    // No copy, and a frame pointer that leads nowhere.
    for value in [0, 1, usize::MAX] {
        let scene = Scene::with(thread::Builder::new(), 0, move |stop| with_frame_pointer(value, stop));
        assert_marked(&scene.trace_that(|frames| in_order(frames, &["with_frame_pointer"])));
        scene.end();
    }
}

/// A loop until the byte at its argument is set, in code that nobody has written tables for.
#[cfg(target_arch = "x86_64")]
#[test]
fn code_without_tables_is_no_outermost_function_for_having_no_frame_pointer() {
    // cmp byte ptr [rdi], 0; je -5; ret
    const CODE: [u8; 6] = [0x80, 0x3f, 0x00, 0x74, 0xfb, 0xc3];
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: 1. a new map, at a place that the kernel chooses.
    let map = unsafe { libc::mmap(ptr::null_mut(), 4096, access, flags, -1, 0) };
    assert_ne!(map, libc::MAP_FAILED);
    // SAFETY: 1. the map is larger, and nobody else's.
    unsafe { map.cast::<[u8; 6]>().write(CODE) };
    // SAFETY: 1. the map, which is written no more.
    assert_eq!(unsafe { libc::mprotect(map, 4096, libc::PROT_READ | libc::PROT_EXEC) }, 0);
    let code = map as usize;
    let scene = Scene::new(move |stop| {
        // SAFETY: 1. the code is a function that reads the byte, and changes no register; the frame pointer is put back.
        unsafe {
            std::arch::asm!(
                "mov {saved}, rbp",
                "xor ebp, ebp",
                "call {code}",
                "mov rbp, {saved}",
                saved = out(reg) _,
                code = in(reg) code,
                in("rdi") stop.as_ptr(),
            );
        }
    });
    let frames =
        scene.trace_that(|frames| frames.first().is_some_and(|frame| (code..code + 6).contains(&frame.address)));
    assert_eq!(frames.len(), 1);
    assert_marked(&frames);
    scene.end();
}

/// Called by the C library's sort; waits for the flag that stands in the first element.
extern "C" fn comparison(a: *const c_void, _: *const c_void) -> c_int {
    // SAFETY: 1. an element of the array.
    let flag = unsafe { a.cast::<*const AtomicBool>().read() };
    // SAFETY: 1. the flag lives as long as the sort.
    let stop = unsafe { &*flag };
    (innermost(stop) > 0).into()
}

#[inline(never)]
fn sorts_in_c(stop: &AtomicBool) {
    let mut flags = [ptr::from_ref(stop); 2];
    // SAFETY: 1. two elements of that size. 2. the comparison takes such elements.
    unsafe { libc::qsort(flags.as_mut_ptr().cast(), 2, size_of::<*const AtomicBool>(), Some(comparison)) };
    black_box(flags);
}

#[test]
fn callers_are_found_through_functions_of_the_c_library() {
    let scene = Scene::new(sorts_in_c);
    scene.trace_that(|frames| in_order(frames, &["innermost", "comparison", "sorts_in_c", "thread_start"]));
    scene.end();
}

#[test]
fn frame_pointers_alone_find_the_callers_in_code_that_has_them() {
    let scene = Scene::with(thread::Builder::new(), 0, outermost);
    let has_frame_pointers = |frames: &[Frame]| in_order(frames, &CHAIN[..3]);
    let frames = scene.trace_that(|frames| in_order(frames, &CHAIN[..1]));
    let trace = scene.trace();
    scene.print_cost(&trace);
    println!("{} records, {}; callers by them: {}", trace.chain.len(), trace.end(), has_frame_pointers(&frames));
    assert_eq!(trace.copied(), 0);
    assert_eq!(trace.return_addresses().len(), trace.chain.len());
    assert!(has_frame_pointers(&frames) || !built_with_frame_pointers(), "{}", Listing(&frames));
    scene.end();
}

/// Whether the functions of the chain begin as those with frame pointers do.
fn built_with_frame_pointers() -> bool {
    let functions = [innermost as *const (), middle as *const (), outermost as *const ()];
    cfg!(target_arch = "x86_64")
        && functions.into_iter().all(|function| {
            // SAFETY: 1. the first bytes of a function are readable code.
            let code = unsafe { function.cast::<[u8; 4]>().read() };
            // push rbp; mov rbp, rsp
            code == [0x55, 0x48, 0x89, 0xe5]
        })
}

#[test]
fn a_deep_stack_is_followed_beyond_the_copy_by_frame_pointers_or_cut() {
    #[inline(never)]
    fn down(depth: usize, stop: &AtomicBool) -> u64 {
        let frame = black_box([depth as u64; 64]);
        let below = if depth == 0 { innermost(stop) } else { down(depth - 1, stop) };
        below + black_box(frame)[depth % 64]
    }
    let scene = Scene::new(|stop| _ = down(100, stop));
    let frames = scene.trace_that(|frames| in_order(frames, &["innermost"]));
    let is_down = |frame: &Frame| is_named(frame, "down");
    let downs = frames.iter().filter(|frame| is_down(frame)).count();
    // A frame has 512 bytes and, in debug builds, its temporaries.
    assert!((4..=101).contains(&downs), "{downs}\n{}", Listing(&frames));
    // The copy ends before the stack.
    let gap = frames.iter().position(|frame| frame.after_gap);
    assert!(gap.is_some() || !built_with_frame_pointers());
    assert!(gap.is_none_or(|gap| is_down(&frames[gap - 1])), "{}", Listing(&frames));
    assert!(downs == 101 || !built_with_frame_pointers(), "{downs}\n{}", Listing(&frames));
    assert_eq!(Listing(&frames).to_string().contains("may be missing"), gap.is_some());
    (0..100).for_each(|_| drop(scene.trace()));
    scene.print_cost(&scene.trace());
    scene.end();
}

#[test]
fn a_small_stack_is_read_up_to_its_end_and_not_beyond() {
    for size in [16 << 10, 20 << 10, 64 << 10] {
        let scene = Scene::with(thread::Builder::new().stack_size(size), 1 << 20, outermost);
        scene.trace_that(|frames| in_order(frames, &CHAIN));
        let trace = scene.trace();
        let (sp, high) = (trace.registers.sp, scene.watched.limits.high());
        assert_eq!(sp + trace.stack.len() * WORD, high);
        assert!(high - scene.watched.limits.low() >= size);
        scene.end();
    }
}

/// Runs `body` with an alternate stack of so many bytes, or none; then the thread has its old one again.
fn with_alternate_stack(size: usize, body: impl FnOnce()) {
    let mut memory = vec![0_u8; size];
    let ss_flags = if size == 0 { libc::SS_DISABLE } else { 0 };
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags, ss_size: size };
    let mut old = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: 1. the memory outlives its use, which ends below.
    assert_eq!(unsafe { libc::sigaltstack(&raw const stack, &raw mut old) }, 0);
    body();
    // SAFETY: 1. it was in use before.
    assert_eq!(unsafe { libc::sigaltstack(&raw const old, ptr::null_mut()) }, 0);
}

#[test]
fn a_handler_on_any_stack_reads_the_threads_own() {
    for size in [0, 16 << 10, 64 << 10] {
        let scene = Scene::new(move |stop| with_alternate_stack(size, || outermost(stop)));
        // It may not have got there at the first capture.
        scene.trace_that(|frames| in_order(frames, &CHAIN));
        scene.trace();
        assert_eq!(scene.watched.on_own_stack.load(Ordering::Relaxed), size == 0);
        scene.end();
    }
}

#[test]
fn code_on_a_stack_of_its_own_is_named_and_its_stack_not_read() {
    let scene = Scene::new(outermost);
    let trace = scene.trace();
    // As if that were another thread's.
    let here = Limits::current().expect("limits");
    let mut buffer = capture::Buffer::new(COPY);
    // SAFETY: 1. no more than the stack pointer is looked at, which is outside. 2. the calling thread's.
    unsafe { buffer.fill(Some(trace.registers), &here) };
    let foreign = buffer.to_trace();
    assert_eq!((foreign.end(), foreign.chain.len(), foreign.stack.len()), (End::OtherStack, 0, 0));
    assert_marked(&foreign.symbolise());
    assert_eq!(foreign.symbolise().first().map(|frame| frame.address), Some(trace.instruction()));
    // SAFETY: 1. none. 2. the calling thread's.
    unsafe { buffer.fill(None, &here) };
    let unknown = buffer.to_trace();
    assert_eq!((unknown.end(), unknown.instruction()), (End::Unsupported, 0));
    assert!(unknown.symbolise().is_empty());
    scene.end();
}

/// Waits for `stop` with `value` in the frame pointer.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn with_frame_pointer(value: usize, stop: &AtomicBool) {
    // SAFETY: 1. the frame pointer is put back; nothing between uses it; `stop` is readable.
    unsafe {
        std::arch::asm!(
            "mov {saved}, rbp",
            "mov rbp, {value}",
            "2:",
            "cmp byte ptr [{stop}], 0",
            "je 2b",
            "mov rbp, {saved}",
            saved = out(reg) _,
            value = in(reg) value,
            stop = in(reg) stop.as_ptr(),
            options(nostack),
        );
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_frame_pointer_that_holds_anything_does_no_harm() {
    let limits = || Limits::current().expect("limits");
    let values: [fn(Limits, usize) -> usize; 10] = [
        |_, _| 1,
        |_, _| usize::MAX,
        |_, _| 0xdead_beef_dead_bee8,
        |_, here| here + 1,
        // A record that points at itself, and one at what lies below it.
        |_, here| here,
        |_, here| here + WORD,
        |limits, _| limits.low(),
        |limits, _| limits.high(),
        |limits, _| limits.high() - WORD,
        |limits, _| limits.high() - 2 * WORD,
    ];
    for value in values {
        let scene = Scene::new(move |stop| {
            let mut record = [0_usize; 4];
            let here = &raw const record as usize;
            record = [here, 1, here, 1];
            black_box(&record);
            with_frame_pointer(value(limits(), here), stop);
            black_box(&record);
        });
        scene.trace_that(|frames| in_order(frames, &["with_frame_pointer"]));
        let trace = scene.trace();
        assert!(trace.chain.is_sorted_by(|lower, upper| lower.at + 2 * WORD <= upper.at), "{trace:?}");
        scene.end();
    }
}

#[test]
fn a_full_cell_keeps_its_capture_until_it_is_taken() {
    let scene = Scene::new(outermost);
    scene.signal();
    let filled = || scene.watched.filled.load(Ordering::Relaxed);
    let refused = || scene.watched.refused.load(Ordering::Relaxed);
    let wait_until = |holds: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < PATIENCE);
            thread::yield_now();
        }
    };
    wait_until(&|| filled() == 1);
    scene.signal();
    wait_until(&|| refused() == 1);
    assert_eq!(filled(), 1);
    assert!(scene.watched.cell.take().is_some());
    assert!(scene.watched.cell.take().is_none());
    assert!(in_order(&scene.trace().symbolise(), &CHAIN[..1]) || filled() == 2);
    scene.end();
}

/// Many captures, every so many of which are made into names.
fn storm(body: impl Fn(&AtomicBool) + Send + 'static) {
    let scene = Scene::new(body);
    let turns = scene.turns.load(Ordering::Relaxed);
    let full = std::env::var_os("IPIQ_STRESS").is_some_and(|stress| stress == "full");
    for round in 0..if full { 5_000 } else { 300 } {
        let trace = scene.trace();
        assert_ne!(trace.instruction(), 0);
        if round % 100 == 0 {
            assert!(!trace.symbolise().is_empty());
        }
    }
    let start = Instant::now();
    while scene.turns.load(Ordering::Relaxed) == turns {
        assert!(start.elapsed() < PATIENCE, "it gets nowhere");
        thread::yield_now();
    }
    scene.end();
}

#[test]
fn captures_while_the_thread_allocates_formats_and_frees() {
    storm(|_| {
        let texts: Vec<String> = (0..50).map(|n| format!("{n:?} {:?}", vec![n; n])).collect();
        black_box(texts);
    });
}

#[test]
fn captures_while_the_thread_panics_and_unwinds() {
    storm(|_| {
        let kept = RefCell::new(vec![1]);
        let caught = catch_unwind(|| {
            let _dropped = Box::new([0_u8; 100]);
            std::panic::resume_unwind(Box::new("as expected"));
        });
        assert!(caught.is_err());
        kept.borrow_mut().push(2);
    });
}

#[test]
fn captures_while_the_thread_is_in_the_kernel() {
    storm(|_| {
        thread::sleep(Duration::from_micros(10));
        drop(std::fs::read_to_string("/proc/self/comm"));
    });
}

#[test]
fn the_limits_hold_what_a_thread_uses_of_its_stack() {
    for thread in [thread::Builder::new(), thread::Builder::new().stack_size(32 << 10)] {
        let found = thread.spawn(|| {
            let limits = Limits::current().expect("limits");
            (limits.contain(stack_pointer()), limits.contain(limits.high()), limits.contain(0))
        });
        assert_eq!(found.expect("a thread").join().expect("no panic"), (true, false, false));
    }
}
