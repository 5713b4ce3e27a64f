use ipiq_macros as ipiq;

#[ipiq::main(cores = 1, cores = 2)]
async fn main() {}
