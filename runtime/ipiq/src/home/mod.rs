#![doc = include_str!("README.md")]

mod number;

use std::any::Any;
use std::cell::RefCell;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipiq_fabric::contain;
use slab::Slab;

use crate::deadline::detached;
pub(crate) use number::{Key, Number};

thread_local! {
    static TABLE: RefCell<Table> = const { RefCell::new(Table::new()) };
}

/// What the thread's core keeps.
struct Table {
    numbered: Vec<Option<Numbered>>,
    boxes: Slab<Boxed>,
    /// Where the keeper looks for the next box: one that looked from the start would pass all that were, for each.
    next_box: usize,
    /// Whether the keeper runs.
    kept: bool,
    /// Whose values the keeper has dropped so far, while it empties the table.
    emptied: Vec<Arc<Number>>,
    /// How many numbers were drawn before the core came back; 0: it has not left before.
    since: u64,
}

/// How often the keeper drops values of one number before it lets none be made any more.
const ROUNDS: usize = 4;

struct Numbered {
    value: Rc<dyn Any>,
    /// Nobody else is given it while the value is here.
    number: Arc<Number>,
}

struct Boxed {
    identity: u64,
    value: Rc<dyn Any>,
}

/// Puts `value` under `number` into the calling core's table.
///
/// # Panics
///
/// If there is one, and on a thread that runs no core.
pub(crate) fn put<V: 'static>(number: &Arc<Number>, value: Rc<V>) {
    keep();
    let index = number.key().index();
    let before = TABLE.with_borrow_mut(|table| {
        if table.numbered.len() <= index {
            table.numbered.resize_with(index + 1, || None);
        }
        table.numbered[index].replace(Numbered { value, number: number.clone() })
    });
    assert!(before.is_none(), "a core has one value per number");
}

/// The calling core's value of the number that has `key`.
pub(crate) fn get<V: 'static>(key: Key) -> Option<Rc<V>> {
    // [home T4]
    let value = look(|table| Some(table.numbered(key)?.as_ref()?.value.clone()))?;
    value.downcast().ok()
}

/// Whether values of the number that has `key` were put again and again while the keeper dropped them: no more may be.
pub(crate) fn is_over(key: Key) -> bool {
    let rounds =
        |table: &mut Table| Some(table.emptied.iter().filter(|emptied| emptied.key() == key).count() >= ROUNDS);
    look(rounds).unwrap_or(true)
}

/// The calling thread's core has come back, and kept nothing of what it had.
pub(crate) fn arrive_anew() {
    // [home T8]
    TABLE.with_borrow_mut(|table| table.since = number::drawn());
}

/// Whether the number that has `key` was drawn before the calling core came back: it had a value in an earlier life at most, unless its values were just being put.
pub(crate) fn is_of_former_life(key: Key) -> bool {
    // [home T8]
    look(|table| Some(!key.is_after(table.since))).unwrap_or(false)
}

/// Takes the calling core's value of the number that has `key` out of its table.
pub(crate) fn take(key: Key) -> Option<Rc<dyn Any>> {
    Some(look(|table| table.numbered(key)?.take())?.value)
}

/// A name of a boxed value on its core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BoxName {
    place: usize,
    identity: u64,
}

/// Puts `value` into a box of the calling core.
///
/// # Panics
///
/// On a thread that runs no core.
pub(crate) fn put_boxed<V: 'static>(value: Rc<V>) -> BoxName {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    keep();
    // Only that it differs matters.
    let identity = NEXT.fetch_add(1, Ordering::Relaxed);
    let place = TABLE.with_borrow_mut(|table| table.boxes.insert(Boxed { identity, value }));
    BoxName { place, identity }
}

/// The value of a box, on its core.
pub(crate) fn get_boxed<V: 'static>(name: BoxName) -> Option<Rc<V>> {
    // [home T4]
    let value = look(|table| {
        let boxed = table.boxes.get(name.place).filter(|boxed| boxed.identity == name.identity)?;
        Some(boxed.value.clone())
    })?;
    value.downcast().ok()
}

/// Takes the value of a box out of the table, on its core.
pub(crate) fn take_boxed<V: 'static>(name: BoxName) -> Option<Rc<V>> {
    take_boxed_if(name, |_| true)?.downcast().ok()
}

/// Takes the value of a box out of the table, on its core, unless somebody uses it.
pub(crate) fn open_boxed<V: 'static>(name: BoxName) -> Option<V> {
    let value = take_boxed_if(name, |value| Rc::strong_count(value) == 1)?;
    Rc::into_inner(value.downcast().ok()?)
}

fn take_boxed_if(name: BoxName, may: impl FnOnce(&Rc<dyn Any>) -> bool) -> Option<Rc<dyn Any>> {
    look(|table| {
        let boxed = table.boxes.get(name.place).filter(|boxed| boxed.identity == name.identity)?;
        may(&boxed.value).then(|| table.boxes.remove(name.place).value)
    })
}

/// Looks into the calling thread's table. A thread that ends may have none any more, where the last of its thread-locals are dropped.
fn look<R>(f: impl FnOnce(&mut Table) -> Option<R>) -> Option<R> {
    TABLE.try_with(|table| f(&mut table.borrow_mut())).ok()?
}

/// Sees to it that what is put into the calling core's table is dropped with the core's tasks.
fn keep() {
    if TABLE.with_borrow_mut(|table| !std::mem::replace(&mut table.kept, true)) {
        let keeper = Keeper;
        // [home T1]
        drop(detached(|| {
            crate::spawn_local(async move {
                let _keeper = keeper;
                pending::<()>().await;
            })
        }));
    }
}

/// Empties the table when it is dropped.
struct Keeper;

impl Drop for Keeper {
    fn drop(&mut self) {
        // [home T3] values may put others when they are dropped.
        TABLE.with_borrow_mut(|table| table.kept = false);
        // [home T2] one that panics does not keep the others from it.
        while let Some(value) = TABLE.with_borrow_mut(Table::pop) {
            contain(|| drop(value));
        }
        TABLE.with_borrow_mut(|table| table.emptied.clear());
    }
}

/// Until the guard is dropped the thread's core keeps nothing, as far as anybody on it can tell.
pub(crate) fn hide() -> Hidden {
    // [home T6]
    Hidden(TABLE.replace(Table::new()))
}

/// A table that is put back.
pub(crate) struct Hidden(Table);

impl Drop for Hidden {
    fn drop(&mut self) {
        // [home T6] nothing was put meanwhile: that takes a core.
        TABLE.with_borrow_mut(|table| std::mem::swap(table, &mut self.0));
    }
}

impl Table {
    const fn new() -> Self {
        Self { numbered: Vec::new(), boxes: Slab::new(), next_box: 0, kept: false, emptied: Vec::new(), since: 0 }
    }

    /// The place of the number that has `key`, with its value.
    fn numbered(&mut self, key: Key) -> Option<&mut Option<Numbered>> {
        // [home T7]
        let is_its = |place: &&mut Option<Numbered>| place.as_ref().is_some_and(|here| here.number.key() == key);
        self.numbered.get_mut(key.index()).filter(is_its)
    }

    /// [home T2] goes round: what is put meanwhile may have a place that it has passed.
    fn pop_box(&mut self) -> Option<Boxed> {
        while !self.boxes.is_empty() {
            let place = self.next_box;
            self.next_box = if place < self.boxes.capacity() { place + 1 } else { 0 };
            if let Some(boxed) = self.boxes.try_remove(place) {
                return Some(boxed);
            }
        }
        None
    }

    fn pop(&mut self) -> Option<Rc<dyn Any>> {
        if let Some(boxed) = self.pop_box() {
            return Some(boxed.value);
        }
        loop {
            if let Some(Numbered { value, number }) = self.numbered.pop()? {
                self.emptied.push(number);
                return Some(value);
            }
        }
    }
}
