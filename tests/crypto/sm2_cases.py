"""What both SM2 providers are asked in tests: the published vector, and the providers themselves."""

from supervm.crypto.libcrypto import Libcrypto, LibraryMissing, open_libcrypto
from supervm.crypto.provider import SignatureProvider
from supervm.crypto.sm2 import Sm2
from supervm.crypto.sm2_openssl import OpensslSm2, open_provider

# GB/T 32918.5 with the user id 1234567812345678 (NET-11).
SECRET = bytes.fromhex("3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8")
NONCE = bytes.fromhex("59276E27D506861A16680F3AD9C02DCCEF3CC1FA3CDBE4CE6D54B80DEAC1BC21")
MESSAGE = b"message digest"
SIGNATURE = bytes.fromhex(
    "F5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEEE720B3"
    "B1B6AA29DF212FD8763182BC0D421CA1BB9038FD1F7F42D4840B69C485BBC1AA"
)


def _open() -> tuple[Libcrypto | None, OpensslSm2 | None, str]:
    try:
        libcrypto = open_libcrypto()
        return libcrypto, open_provider(libcrypto), ""
    except LibraryMissing as error:
        return None, None, str(error)


LIBCRYPTO, NATIVE, MISSING = _open()
PORTABLE = Sm2()
PROVIDERS: list[SignatureProvider] = [PORTABLE] if NATIVE is None else [PORTABLE, NATIVE]
