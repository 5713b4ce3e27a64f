#[ipiq::main]
fn main() {}
