"""Names and phrases of the synthetic complaints. Companies are invented."""

from __future__ import annotations

COMPANIES = (
    "First Harbor Bank", "Meridian Mortgage", "Redwood Credit Union", "Union Ledger Financial", "Northgate Bank",
    "Bluestone Servicing", "Pinnacle Card Services", "Summit Home Loans", "Cedar Collections", "Atlas Student Lending",
    "Riverbend Bank", "Keystone Recovery Group", "Lakeshore Savings", "Prairie Auto Finance", "Granite Credit Bureau",
    "Coastal Payments", "Juniper Bank & Trust", "Highland Debt Services", "Willow Consumer Lending", "Orchard Prepaid",
)  # fmt: skip

# Product -> (sub-products, issues).
PRODUCTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Mortgage": (
        ("Conventional fixed mortgage", "FHA mortgage", "Home equity loan or line of credit"),
        ("Loan servicing, payments, escrow account", "Loan modification,collection,foreclosure", "Application, originator",
         "Settlement process and costs"),
    ),
    "Debt collection": (
        ("Credit card", "Medical", "Other"),
        ("Cont'd attempts collect debt not owed", "Communication tactics", "Disclosure verification of debt",
         "Improper contact or sharing of info"),
    ),
    "Credit reporting": (
        ("",),
        ("Incorrect information on credit report", "Credit reporting company's investigation",
         "Unable to get credit report/credit score"),
    ),
    "Credit card": (
        ("",),
        ("Billing disputes", "APR or interest rate", "Identity theft / Fraud / Embezzlement", "Late fee",
         "Closing/Cancelling account"),
    ),
    "Bank account or service": (
        ("Checking account", "Savings account", "Other bank product/service"),
        ("Account opening, closing, or management", "Deposits and withdrawals", "Problems caused by my funds being low"),
    ),
    "Consumer Loan": (
        ("Vehicle loan", "Installment loan", "Personal line of credit"),
        ("Managing the loan or lease", "Problems when you are unable to pay", "Taking out the loan or lease"),
    ),
    "Student loan": (
        ("Federal student loan servicing", "Non-federal student loan"),
        ("Dealing with my lender or servicer", "Can't repay my loan", "Getting a loan"),
    ),
    "Prepaid card": (
        ("General purpose card", "Gift or merchant card"),
        ("Unauthorized transactions or other trans. issues", "Managing, opening, or closing account"),
    ),
}  # fmt: skip

# State -> weight, roughly its share of complaints.
STATES = {
    "CA": 14.0, "FL": 9.5, "TX": 7.7, "NY": 6.9, "GA": 4.5, "NJ": 4.0, "PA": 3.6, "IL": 3.6, "VA": 3.3, "MD": 3.1,
    "OH": 3.1, "NC": 2.9, "MI": 2.6, "AZ": 2.2, "WA": 2.1, "MA": 2.0, "CO": 1.8, "TN": 1.6, "MO": 1.4, "SC": 1.4,
    "WI": 1.3, "OR": 1.3, "NV": 1.3, "CT": 1.2, "MN": 1.2, "LA": 1.1, "AL": 1.1, "IN": 1.1, "KY": 0.8, "OK": 0.7,
    "UT": 0.6, "DC": 0.6, "DE": 0.5, "NH": 0.5, "MS": 0.5, "KS": 0.5, "NM": 0.5, "AR": 0.5, "IA": 0.5, "HI": 0.4,
    "ME": 0.4, "RI": 0.4, "ID": 0.4, "NE": 0.3, "WV": 0.3, "VT": 0.2, "MT": 0.2, "AK": 0.1, "SD": 0.1, "WY": 0.1,
}  # fmt: skip

OPENINGS = (
    "I am writing about my {product} and the matter of {topic}.",
    "This is about {topic} on a {product} that I have held for some years.",
    "On XX/XX/XXXX I noticed a problem with {topic}.",
    "My {product} account XXXX has had trouble since XX/XX/XXXX; it concerns {topic}.",
)

DETAILS = (
    "The amount in question is {$120.00}.",
    "The amount in question is {$2400.00}.",
    "I have called the company three times.",
    "I sent a letter with copies of my statements on XX/XX/XXXX.",
    "A representative told me that the file was under review.",
    "They mailed me a form, which I returned within a week.",
    "My records show that every payment was made on time.",
    "I have attached the statement for XX/XX/XXXX.",
)

CALM = (
    "I would like to understand how this came about.",
    "The people on the phone were polite.",
    "I assume that it is an oversight.",
    "I would be glad of an explanation.",
    "I can send further documents if they help.",
    "It has caused me some inconvenience.",
)

HEATED = (
    "I am extremely upset by how I have been treated.",
    "Nobody ever calls me back.",
    "This is completely unacceptable.",
    "I have been lied to again and again.",
    "I will not stop until this is made right.",
    "It has cost me sleep and money.",
)

CLOSINGS = (
    "Please correct it.",
    "I ask for your help.",
    "Thank you for looking into this.",
    "I want my account put in order.",
)
