"""Names of the published protocol and of the audit beyond it."""

# The nine attacks of the image-wise worst case (Kulkarni & Weng, ECCV 2024), in their order.
NINE_ATTACKS = (
    "aa",
    "rays",
    "apgd-eot",
    "tr-apgd-ce",
    "tr-apgd-cw",
    "tr-apgd-t-dlr",
    "tr-aa",
    "tr-rays",
    "tr-apgd-eot",
)

# Adaptive attacks, aimed at one defense; they attack the images that all others left standing.
AUDIT_PREFIX = "audit-"
AUDIT_ATTACKS = (
    "audit-transfer-start",
    "audit-joint-loss",
    "audit-oracle-mask",
    "audit-detached-mask",
    "audit-identity-mask",
    "audit-line",
    "audit-square-eot",
    "audit-best-start",
)

# What stands for several attacks where attacks are asked for.
ATTACK_GROUPS = {"iwwc": NINE_ATTACKS, "audit": AUDIT_ATTACKS}
