use ipiq_macros as ipiq;

#[ipiq::test]
fn not_async() {}

#[ipiq::test]
#[test]
async fn test_twice() {}

#[ipiq::test(cores = 0)]
async fn no_cores() {}

fn main() {}
