"""An authority and what it signs, for tests of encrypted connections."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


class Authority:
    """Its own certificate is ``ca.crt`` in its folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.certificate = folder, folder / "ca.crt"
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _name(folder.name)
        signed = self._about(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(True, None), True
        )
        self._write(self.certificate, signed)

    def sign(self, name: str, *addresses: str) -> tuple[Path, Path]:
        """A certificate that is good for these addresses, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        signed = self._about(_name(name), key.public_key())
        if names:
            signed = signed.add_extension(x509.SubjectAlternativeName(names), False)
        certificate, key_path = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        self._write(certificate, signed)
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        key_path.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
        key_path.chmod(0o600)
        return certificate, key_path

    def variables(self, name: str, *addresses: str) -> dict[str, str]:
        """What has Ray encrypt with such a certificate."""
        certificate, key = self.sign(name, *addresses)
        return {
            "RAY_USE_TLS": "1", "RAY_TLS_SERVER_CERT": str(certificate), "RAY_TLS_SERVER_KEY": str(key),
            "RAY_TLS_CA_CERT": str(self.certificate),
        }  # fmt: skip

    def _about(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        return (
            builder.serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )

    def _write(self, path: Path, builder: x509.CertificateBuilder) -> None:
        path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
