"""Which network addresses are the public internet's. Pure: asks no resolver."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

# What Python's `is_global` lets through, at least in some of its versions.
_CLOSED_V4 = tuple(
    map(
        ip_network,
        (
            "192.0.0.0/24",  # protocol assignments; a cloud's metadata service lies there
            "192.88.99.0/24",  # 6to4 relays
            "168.63.129.16/32",  # another cloud's platform service, on every host of it
        ),
    )
)
_OPEN_V6 = ip_network("2000::/3")
_CLOSED_V6 = tuple(
    map(
        ip_network,
        (
            "2001::/23",  # protocol assignments, Teredo among them, which holds an IPv4 address
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which holds an IPv4 address
            "3fff::/20",  # documentation
        ),
    )
)
_NAT64 = ip_network("64:ff9b::/96")  # how an IPv6-only network shows the IPv4 internet


def is_public(address: str) -> bool:
    """True if `address` (IPv4 or IPv6, as text) is one that anybody on the internet reaches.

    Raises ValueError for anything else than an address.
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv4Address):
        return _is_public_v4(parsed)
    if parsed.ipv4_mapped is not None:
        return _is_public_v4(parsed.ipv4_mapped)
    if parsed in _NAT64:
        return _is_public_v4(IPv4Address(int(parsed) & 0xFFFF_FFFF))
    return _is_public_v6(parsed)


def _is_public_v4(address: IPv4Address) -> bool:
    is_open = address.is_global and not (address.is_multicast or address.is_reserved)
    return is_open and not any(address in network for network in _CLOSED_V4)


def _is_public_v6(address: IPv6Address) -> bool:
    is_open = address in _OPEN_V6 and address.is_global and not address.is_multicast
    return is_open and not any(address in network for network in _CLOSED_V6)
