"""Common names of columns."""

# Compared in lower case without anything but letters and digits, so userId, user_id and "User-ID" are one name.
NAMES = {
    "user": (
        *("userid", "user", "uid", "username", "customerid", "customer", "clientid", "client", "memberid", "member"),
        *("visitorid", "visitor", "reviewerid", "reviewer", "accountid", "account", "profileid", "profile", "personid"),
    ),
    "item": (
        *("itemid", "item", "iid", "movieid", "movie", "productid", "product", "asin", "parentasin", "sku", "isbn"),
        *("bookid", "book", "songid", "song", "trackid", "track", "artistid", "artist", "articleid", "article"),
        *(
            "businessid",
            "business",
            "gameid",
            "game",
            "animeid",
            "anime",
            "locationid",
            "contentid",
            "showid",
            "recipeid",
        ),
    ),
    "rating": ("rating", "ratings", "score", "stars", "overall", "bookrating", "grade"),
    "timestamp": (
        *("timestamp", "unixreviewtime", "unixtime", "ts", "time", "datetime", "eventtime", "createdat", "date"),
        *("purchasedate", "orderdate", "checkintime"),
    ),
}


def plain(name: str) -> str:
    """A column name for comparison: ``User-ID`` and ``userId`` are both ``userid``."""
    return "".join(c for c in name.lower() if c.isalnum())
