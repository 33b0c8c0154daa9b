"""What is the internet's, and what is somebody's own."""

import pytest

from api.hooks.addresses import is_public

PUBLIC = (
    "93.184.216.34",
    "8.8.8.8",
    "100.63.255.255",
    "172.32.0.1",
    "2606:2800:220:1::1",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
)
PRIVATE = (
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",  # metadata of most clouds
    "100.100.100.200",  # metadata, in the range for carriers
    "192.0.0.192",  # metadata
    "168.63.129.16",  # platform service
    "198.18.0.1",
    "192.0.2.1",
    "203.0.113.9",
    "192.88.99.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",  # metadata
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "3fff::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::",
    "2002:808:808::",
    "2001:0:a9fe:a9fe::",
    "2001:10::1",
    "100::1",
    "5f00::1",
)


@pytest.mark.parametrize("address", PUBLIC)
def test_the_internet_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_everything_else_is_private(address):
    assert not is_public(address)


@pytest.mark.parametrize("text", ["localhost", "127.1", "2130706433", "0x7f.1", "", "1.2.3.4.5"])
def test_a_name_is_no_address(text):
    with pytest.raises(ValueError, match="does not appear"):
        is_public(text)
