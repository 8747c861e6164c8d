package residency

// Mechanisms of adequacy.csv that allow something, and of the long form.
const (
	mechanismAdequacy     = "adequacy"
	mechanismNegativeList = "negative-list"
	mechanismNone         = "none"
)
