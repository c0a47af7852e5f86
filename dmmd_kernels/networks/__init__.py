"""Networks φ(x, t) that systems share: small ones for points and digits, and a U-Net."""
