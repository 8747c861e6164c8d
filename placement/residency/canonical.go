package residency

import "strings"

// originCanonical is the origin of a layer that was read from a canonical form,
// which does not say whose it was.
const originCanonical Origin = "policy"

// maxCanonicalLayers bounds the layers that a canonical form may have.
const maxCanonicalLayers = 64

// ParseCanonical reads what [Policy.Canonical] wrote, and nothing else. Whoever
// repeats an old decision reads the policy back under the pack and the day that
// the decision pins. Who added which layer is not in the form: the layers'
// origin is "policy". Errors are *[Error].
func ParseCanonical(s string, p *Pack, on Date) (Policy, error) {
	words := strings.Split(s, layerSeparator)
	if len(words) > maxCanonicalLayers {
		return Policy{}, &Error{Code: "tag.too-long", Message: "the policy has too many layers", Help: "a policy has at most 64 layers"}
	}
	layers := make([]Layer, 0, len(words))
	for _, w := range words {
		t, err := ParseWire(w, p, on)
		if err != nil {
			return Policy{}, err
		}
		layers = append(layers, Layer{Origin: originCanonical, Tag: t})
	}
	policy := NewPolicy(layers...)
	if policy.Canonical() != s {
		return Policy{}, &Error{Code: "tag.syntax", Message: "the policy is not in canonical form", Help: "use the form that was recorded: " + shortened(policy.Canonical())}
	}
	return policy, nil
}
