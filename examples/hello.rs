//! A task on every core, and a word handed from each to the next.

use ipiq::{CoreId, JoinError};

#[ipiq::main]
async fn main() -> Result<(), JoinError> {
    let mut greeting = String::from("hello");
    for core in ipiq::cores() {
        // The closure travels, with what it owns; the task runs there, and its value comes back.
        greeting = ipiq::spawn_on(core, move || async move { format!("{greeting}, {}", ipiq::core_id()) }).await?;
    }
    println!("{greeting}!");
    // The other way round: everybody calls core 0, which alone prints.
    let first = CoreId::new(0);
    let called = ipiq::xcall::low::broadcast(move || async move {
        let here = ipiq::core_id();
        ipiq::call_on(first, move || println!("{here} calls")).await.expect("core 0 runs until all have called");
    });
    for (_core, ended) in called.await {
        ended?;
    }
    Ok(())
}
