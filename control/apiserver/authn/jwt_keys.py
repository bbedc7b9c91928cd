"""Signs and verifies JSON Web Tokens, publishes the keys as a JWKS; pyjwt is imported with the first token."""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from control.apiserver.authn.identity import InvalidCredentialError

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_CURVES = {
    "secp256r1": ("ES256", "P-256", 32),
    "secp384r1": ("ES384", "P-384", 48),
    "secp521r1": ("ES512", "P-521", 66),
}
"""By curve: JWS algorithm, JWK name, bytes of a coordinate."""
VERIFIED_MAX = 4096


@dataclass(frozen=True)
class VerificationKey:
    """A public key under the id that its tokens name."""

    key_id: str
    algorithm: str
    key: PublicKey


class TokenSigner:
    """Signs claims with one private key."""

    def __init__(self, private_key: PrivateKey) -> None:
        self._key = private_key
        self._public = verification_key(private_key.public_key())

    @property
    def public(self) -> VerificationKey:
        """The key that verifies what this signs."""
        return self._public

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Make a token."""
        import jwt

        return jwt.encode(dict(claims), self._key, self._public.algorithm, headers={"kid": self._public.key_id})


class TokenVerifier:
    """Checks signature, issuer, times and audiences of tokens."""

    def __init__(self, keys: Iterable[VerificationKey], issuers: Sequence[str]) -> None:
        self._keys = {key.key_id: key for key in keys}
        self._issuers = tuple(issuers)
        self._verified: OrderedDict[str, dict[str, Any]] = OrderedDict()
        """Claims of tokens whose signature was found right; whether they hold now is asked each time."""

    @property
    def keys(self) -> tuple[VerificationKey, ...]:
        """All keys that are believed."""
        return tuple(self._keys.values())

    def is_ours(self, token: str) -> bool:
        """Whether the token claims one of our issuers; nothing is verified."""
        if token in self._verified:
            return True
        import jwt

        try:
            claims = jwt.decode(token, options={"verify_signature": False})
        except jwt.PyJWTError:
            return False
        return claims.get("iss") in self._issuers

    def verify(self, token: str, audiences: Sequence[str], now_s: float) -> dict[str, Any]:
        """Return the claims of a good token; its `aud` is narrowed to the wanted audiences that it is for."""
        claims = self._verified.get(token)
        if claims is None:
            claims = self._checked(token)
            self._verified[token] = claims
            if len(self._verified) > VERIFIED_MAX:
                self._verified.popitem(last=False)
        if not _number(claims, "nbf", 0) <= now_s:
            raise InvalidCredentialError("token: not valid yet")
        if now_s >= _number(claims, "exp", 0):
            raise InvalidCredentialError("token: expired")
        held = claims.get("aud") or []
        held = [held] if isinstance(held, str) else held
        shared = [audience for audience in audiences if audience in held]
        if not shared:
            raise InvalidCredentialError(f"token audiences {held!r} is invalid for the target audiences {audiences!r}")
        return {**claims, "aud": shared}

    def _checked(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that one of our issuers signed."""
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            named = self._keys.get(str(header.get("kid", "")))
            candidates = [named] if named else list(self._keys.values())
            claims = self._decoded(token, candidates)
        except jwt.PyJWTError as error:
            raise InvalidCredentialError(f"token: {error}") from error
        if claims.get("iss") not in self._issuers:
            raise InvalidCredentialError("token: another issuer")
        return claims

    def _decoded(self, token: str, candidates: Sequence[VerificationKey]) -> dict[str, Any]:
        """Verify the signature alone: the clock is the caller's."""
        import jwt

        options: Any = dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss"), False)
        last: jwt.PyJWTError = jwt.InvalidSignatureError("no key verifies the token")
        for candidate in candidates:
            try:
                claims: dict[str, Any] = jwt.decode(
                    token, candidate.key, algorithms=[candidate.algorithm], options=options
                )
            except jwt.PyJWTError as error:
                last = error
                continue
            return claims
        raise last


def verification_key(key: PublicKey) -> VerificationKey:
    """Name a key as kube-apiserver does: the SHA-256 of its DER form, URL-safe base64 without padding."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = key.public_bytes(serialization.Encoding.DER, form)
    algorithm = "RS256" if isinstance(key, rsa.RSAPublicKey) else _CURVES[key.curve.name][0]
    return VerificationKey(_base64url(hashlib.sha256(der).digest()), algorithm, key)


def load_private_key(path: Path) -> PrivateKey:
    """Read an RSA or EC private key."""
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path}: an RSA or EC private key is needed")
    return key


def load_public_keys(path: Path) -> list[VerificationKey]:
    """Read every key of a PEM file: public keys, certificates, or private keys (their public half)."""
    marker = b"-----END"
    found = []
    for block in path.read_bytes().split(b"-----BEGIN ")[1:]:
        pem = b"-----BEGIN " + block[: block.index(b"-----", block.index(marker) + len(marker)) + 5] + b"\n"
        found.append(verification_key(_public_key(pem, path)))
    if not found:
        raise ValueError(f"{path}: no PEM key found")
    return found


def jwks(keys: Iterable[VerificationKey]) -> dict[str, Any]:
    """The JSON Web Key Set of these keys."""
    return {"keys": [_jwk(key) for key in keys]}


def _public_key(pem: bytes, path: Path) -> PublicKey:
    if b"PRIVATE KEY" in pem:
        private = serialization.load_pem_private_key(pem, password=None)
        if isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            return private.public_key()
    else:
        public = serialization.load_pem_public_key(pem)
        if isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            return public
    raise ValueError(f"{path}: an RSA or EC key is needed")


def _jwk(key: VerificationKey) -> dict[str, str]:
    base = {"use": "sig", "kid": key.key_id, "alg": key.algorithm}
    if isinstance(key.key, rsa.RSAPublicKey):
        rsa_numbers = key.key.public_numbers()
        return {**base, "kty": "RSA", "n": _base64url_number(rsa_numbers.n), "e": _base64url_number(rsa_numbers.e)}
    _, curve, size = _CURVES[key.key.curve.name]
    numbers = key.key.public_numbers()
    x, y = numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big")
    return {**base, "kty": "EC", "crv": curve, "x": _base64url(x), "y": _base64url(y)}


def _number(claims: Mapping[str, Any], name: str, default: float) -> float:
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidCredentialError(f"token: {name} is not a number")
    return value


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _base64url_number(number: int) -> str:
    return _base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))
