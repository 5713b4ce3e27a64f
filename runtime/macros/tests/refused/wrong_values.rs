use ipiq_macros as ipiq;

#[ipiq::main(cores = "2", driver = "kqueue")]
async fn main() {}
