#[ipiq::main(cores = "2", driver = "kqueue")]
async fn main() {}
