use ipiq_macros as ipiq;

#[ipiq::main]
fn main() {}
