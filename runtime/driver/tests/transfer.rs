//! Bytes through sockets, on both drivers.

mod common;

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::Shutdown;

use common::{block_on, pair, poll_once, spin_on};
use ipiq_driver::Driver;
use ipiq_driver::buf::BufResult;

on_both_drivers! {
    bytes_come_back_from_an_echo;
    bytes_come_back_through_borrowed_buffers;
    bytes_reach_a_core_that_never_sleeps;
    a_peer_that_closes_its_half_ends_the_stream_and_still_receives;
    ten_megabytes_pass_in_pieces;
}

fn bytes_come_back_from_an_echo(driver: &Driver) {
    let (near, mut far) = pair(driver);
    for round in 0..10u8 {
        far.write_all(&[round; 100]).unwrap();
        let mut buf = Vec::with_capacity(4096);
        while buf.len() < 100 {
            let BufResult(result, got) = block_on(driver, near.recv(Vec::with_capacity(4096)));
            assert_eq!(result.unwrap(), got.len());
            buf.extend(got);
        }
        let BufResult(result, buf) = block_on(driver, near.send(buf));
        assert_eq!(result.unwrap(), 100);
        assert_eq!(buf, [round; 100], "the buffer comes back");
        let mut echo = [0; 100];
        far.read_exact(&mut echo).unwrap();
        assert_eq!(echo, [round; 100]);
    }
}

fn bytes_reach_a_core_that_never_sleeps(driver: &Driver) {
    for _ in 0..10 {
        let (near, mut far) = pair(driver);
        for _ in 0..10 {
            let mut recv = near.recv(Vec::with_capacity(1));
            assert!(poll_once(&mut recv).is_pending());
            driver.flush();
            far.write_all(b"x").unwrap();
            assert_eq!(spin_on(driver, recv).1, b"x");
        }
    }
}

fn bytes_come_back_through_borrowed_buffers(driver: &Driver) {
    let (near, mut far) = pair(driver);
    for round in 0..10u8 {
        far.write_all(&[round; 100]).unwrap();
        let mut buf = [0; 4096];
        let mut len = 0;
        while len < 100 {
            len += block_on(driver, poll_fn(|cx| near.poll_read(cx, &mut buf[len..]))).unwrap();
        }
        let sent = block_on(driver, poll_fn(|cx| near.poll_write(cx, &buf[..len]))).unwrap();
        assert_eq!(sent, 100);
        let mut echo = [0; 100];
        far.read_exact(&mut echo).unwrap();
        assert_eq!(echo, [round; 100]);
    }
}

fn a_peer_that_closes_its_half_ends_the_stream_and_still_receives(driver: &Driver) {
    let (near, mut far) = pair(driver);
    far.write_all(b"last").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    loop {
        let BufResult(result, got) = block_on(driver, near.recv(Vec::with_capacity(64)));
        if result.unwrap() == 0 {
            break;
        }
        all.extend(got);
    }
    assert_eq!(all, b"last");
    let mut byte = [0];
    assert_eq!(block_on(driver, poll_fn(|cx| near.poll_read(cx, &mut byte))).unwrap(), 0, "the end stays the end");
    block_on(driver, near.send(b"answer".to_vec())).0.unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    far.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
}

fn ten_megabytes_pass_in_pieces(driver: &Driver) {
    const TOTAL: usize = 10 << 20;
    let (near, mut far) = pair(driver);
    let mut back = far.try_clone().unwrap();
    let pattern = |i: usize| (i % 251) as u8;
    let writer = std::thread::spawn(move || {
        let all: Vec<u8> = (0..TOTAL).map(pattern).collect();
        far.write_all(&all).unwrap();
        far.shutdown(Shutdown::Write).unwrap();
    });
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        back.read_to_end(&mut all).unwrap();
        all
    });
    block_on(driver, async {
        let mut buf = Vec::with_capacity(65536);
        loop {
            let BufResult(result, mut full) = near.recv(buf).await;
            if result.unwrap() == 0 {
                break;
            }
            while !full.is_empty() {
                let BufResult(sent, mut rest) = near.send(full).await;
                rest.drain(..sent.unwrap());
                full = rest;
            }
            buf = full;
        }
        near.shutdown(Shutdown::Write).unwrap();
    });
    writer.join().unwrap();
    let all = reader.join().unwrap();
    assert_eq!(all.len(), TOTAL);
    assert!(all.iter().enumerate().all(|(i, &b)| b == pattern(i)));
}
