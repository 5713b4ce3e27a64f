use ipiq_macros as ipiq;

#[ipiq::main(threads = 2)]
async fn main() {}
