//! What `main` returns stays on its core: it need not be `Send`.

use std::error::Error;
use std::rc::Rc;

#[ipiq::main(cores = 1)]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let here = Rc::new(1);
    ipiq::yield_now().await;
    if *here == 2 {
        return Err("two".into());
    }
    Ok(())
}
