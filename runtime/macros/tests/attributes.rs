//! What the attributes say of functions and arguments that they cannot take.

#[test]
fn programs_that_are_wrong_are_told_why() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}
