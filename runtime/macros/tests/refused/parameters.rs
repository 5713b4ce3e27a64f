use ipiq_macros as ipiq;

#[ipiq::main]
async fn main(arguments: Vec<String>) {}
