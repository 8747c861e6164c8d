package simulate

import "math/rand/v2"

// stream numbers the uses of a seed, so that they do not share their numbers.
const (
	streamWorkload = 1 + iota
	streamChurn
	streamPolicy
)

func random(seed uint64, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }

// workload is the arrivals of a fill: the jobs, sorted by name, shuffled, then
// uniform samples of them until they ask for demand times the capacity. It
// gives indexes into jobs.
func workload(jobs []Job, capacity int64, demand float64, seed uint64) []int {
	r := random(seed, streamWorkload)
	order := make([]int, len(jobs))
	for i := range jobs {
		order[i] = i
	}
	r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	asked := int64(0)
	enough := int64(demand * float64(capacity))
	for n, i := range order {
		if asked += jobs[i].amount(); asked >= enough && enough > 0 {
			return order[:n+1]
		}
	}
	if asked == 0 {
		return order // no number of copies would ever ask for a GPU
	}
	for asked < enough && len(order) < jobsMax {
		i := r.IntN(len(jobs))
		order = append(order, i)
		asked += jobs[i].amount()
	}
	return order
}
