//! What can be bound and connected to.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

mod sealed {
    pub trait Sealed {}
}

/// An IP address and port: a [`SocketAddr`], a pair of both, or text such as `"127.0.0.1:80"`.
///
/// Names are not resolved: that would block the core.
pub trait Address: sealed::Sealed {
    /// The address meant.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if a text is not an IP address and port.
    fn to_address(&self) -> io::Result<SocketAddr>;
}

macro_rules! always_an_address {
    ($($source:ty),*) => {$(
        impl sealed::Sealed for $source {}

        impl Address for $source {
            fn to_address(&self) -> io::Result<SocketAddr> {
                Ok(SocketAddr::from(*self))
            }
        }
    )*};
}

always_an_address!(
    SocketAddr,
    SocketAddrV4,
    SocketAddrV6,
    (IpAddr, u16),
    (Ipv4Addr, u16),
    (Ipv6Addr, u16),
    ([u8; 4], u16)
);

impl sealed::Sealed for &str {}

impl Address for &str {
    fn to_address(&self) -> io::Result<SocketAddr> {
        self.parse().map_err(|_| {
            let text = format!(
                "{self:?} is not an IP address and port; names are not resolved here, because that would block the core"
            );
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
    }
}

impl sealed::Sealed for String {}

impl Address for String {
    fn to_address(&self) -> io::Result<SocketAddr> {
        self.as_str().to_address()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_an_address_only_with_numbers() {
        assert_eq!("127.0.0.1:80".to_address().unwrap(), SocketAddr::from(([127, 0, 0, 1], 80)));
        assert_eq!("[::1]:80".to_owned().to_address().unwrap(), SocketAddr::from((Ipv6Addr::LOCALHOST, 80)));
        for wrong in ["localhost:80", "127.0.0.1", "", ":80", "127.0.0.1:99999"] {
            let error = wrong.to_address().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains("names are not resolved"), "{error}");
        }
    }
}
